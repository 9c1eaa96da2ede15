"""Rows, vectors and arguments of users, checked once."""
