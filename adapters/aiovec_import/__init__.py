"""Import the rows of other stores: the readers behind ``aiovec import`` for each kind of store.

Each reads by its store's own client, which only its own imports need. ``aiovec_import.common`` has
what they share.
"""
