"""Embedders: vectors of texts, asked for in batches, retried, checked and cached."""
