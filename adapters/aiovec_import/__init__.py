"""Import and export files: ``aiovec import`` and ``aiovec export``.

``sources`` defines the terms. ``stores`` has a reader for each other kind of store, which uses that
store's own client.
"""
