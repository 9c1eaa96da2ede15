"""Keyword search, as far as it is the same on every backend: the query language."""
