"""Handlers of the application's commands."""
