"""Handlers of a command listener that is interrupted while one runs."""
