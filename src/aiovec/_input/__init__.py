"""Rows, vectors and arguments as they come in, checked once."""
