"""Exact search in memory: int8 codes with a proven bound select rows, and vectors rank them."""
