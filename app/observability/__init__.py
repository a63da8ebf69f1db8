"""Observability: telemetry providers, span files, gauges, health probes, doctor."""
