"""Embedders, which make vectors of texts, in batches, with retries, checks and a cache."""
