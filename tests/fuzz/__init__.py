"""Mutations of what is on the server, written while mission control is at work."""
