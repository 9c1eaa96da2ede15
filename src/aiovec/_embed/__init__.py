"""Embedders, which turn texts into vectors in batches, with retries, checks and a cache."""
