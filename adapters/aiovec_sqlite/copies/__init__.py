"""Exact search in memory: int8 codes with a certified bound, settled by the vectors themselves."""
