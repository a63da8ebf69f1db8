"""Simultaneous localization and mapping of one robot."""
