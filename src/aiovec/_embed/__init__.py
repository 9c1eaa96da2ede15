"""Embedders: vectors of texts, requested in batches, retried, checked and cached."""
