"""Simulated floors, sensors and robots, and whole explorations in one process."""
