"""Spans, metrics and log context; needs only the OpenTelemetry API."""
