"""Robots: the fleet registry, the client of a mission's team, robot processes, message codecs."""
