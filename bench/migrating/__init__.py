"""Moving a table to LanceDB and back: how fast, in how much memory, and whether all is equal."""
