"""Rows, schemas and results: the layer that imports nothing of aiovec but its errors."""
