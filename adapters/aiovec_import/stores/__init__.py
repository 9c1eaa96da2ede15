"""The readers of other stores. ``common`` has what most of them share."""
