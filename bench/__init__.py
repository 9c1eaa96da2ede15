"""The benchmarks: ``python -m bench all`` or one subject, from the repository's root."""
