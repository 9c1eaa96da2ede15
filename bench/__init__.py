"""The benchmarks. Run all with ``python -m bench`` in the repository's root, or name a subject."""
