"""The store over HTTP: a server, and its routes for an app of one's own."""
