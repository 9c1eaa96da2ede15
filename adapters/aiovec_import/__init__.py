"""Files in and out: ``aiovec import`` and ``aiovec export``.

``sources`` has the nouns, ``stores`` a reader for each other store, by its own client.
"""
