"""Filters, LIKE patterns and values as SQLite holds and computes them."""
