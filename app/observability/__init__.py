"""How the application is observed: telemetry providers, span files, gauges, health, doctor."""
