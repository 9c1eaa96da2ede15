"""Spans and metrics of the calls."""
