"""Handlers of the mission's commands."""
