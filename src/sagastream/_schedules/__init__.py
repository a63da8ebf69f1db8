"""Schedules as values, and the times at which they are due."""
