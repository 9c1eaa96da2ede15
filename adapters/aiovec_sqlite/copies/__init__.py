"""Exact search in memory: int8 codes with a certified bound select rows; vectors measure them."""
