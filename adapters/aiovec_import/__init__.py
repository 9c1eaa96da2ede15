"""Files in and out: ``aiovec import`` and ``aiovec export``.

``sources`` defines the terms; ``stores`` has a reader for each kind of other store, using its own
client.
"""
