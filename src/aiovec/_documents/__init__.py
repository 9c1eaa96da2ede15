"""Reads documents in a separate process, which a hostile one may crash."""
