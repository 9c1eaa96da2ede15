"""Spans and durations of the calls of a store, if the app has set up OpenTelemetry."""
