"""Spans, metrics and log context, by the OpenTelemetry API alone."""
