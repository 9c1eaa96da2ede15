"""The cost of a search, beside its peers: the parts of ``python -m bench search``."""
