"""What a search costs, beside its peers: the parts of ``python -m bench search``."""
