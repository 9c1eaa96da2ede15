"""Rows, vectors and arguments from users, checked once."""
