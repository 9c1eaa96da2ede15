"""Import and export files: ``aiovec import`` and ``aiovec export``.

``sources`` defines the base classes. ``stores`` has the readers for other programs' stores; each
reader uses the store's own client.
"""
