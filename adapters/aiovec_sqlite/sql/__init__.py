"""Translate filters, LIKE patterns and values into SQLite's SQL and types."""
