"""The store itself: calls, retries, ranking, and following a TOML file, on any backend."""
