"""The web server: HTTP API, event streams and pages for missions and the fleet."""
