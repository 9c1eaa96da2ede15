"""The store: calls, retries, ranking, expiring rows, watches, and migrations that it follows."""
