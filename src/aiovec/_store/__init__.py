"""The store: calls, retries, ranking, expiring rows, watches, and following a migration."""
