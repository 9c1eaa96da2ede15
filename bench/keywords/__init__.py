"""The measurements of ``python -m bench text``, and their data."""
