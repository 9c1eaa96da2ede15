"""Rows, schemas and results: the layer that imports only the errors and the tools of aiovec."""
