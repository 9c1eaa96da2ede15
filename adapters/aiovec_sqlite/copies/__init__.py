"""Exact search in memory: int8 codes with a proven error bound select rows; vectors rank them."""
