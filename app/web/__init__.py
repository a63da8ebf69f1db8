"""Missions over HTTP."""
