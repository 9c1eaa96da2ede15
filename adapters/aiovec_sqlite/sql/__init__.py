"""Filters, LIKE patterns and values in SQLite's SQL and types."""
