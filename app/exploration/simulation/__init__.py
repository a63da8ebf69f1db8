"""Simulated floors, robots and sensors, and whole explorations in one process."""
