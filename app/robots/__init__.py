"""Robots: the fleet registry, the client of a team, the processes that robots live in, and codecs."""
