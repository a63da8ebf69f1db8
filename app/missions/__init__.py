"""Missions: the saga that a mission is, and what it keeps: recording, checkpoints, artifacts, summaries."""
