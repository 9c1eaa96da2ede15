"""Keyword search: the FTS5 index of a table, its upkeep, and searches with it."""
