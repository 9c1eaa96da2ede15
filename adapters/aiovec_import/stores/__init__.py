"""Readers of other stores. ``common`` contains the code that most of them share."""
