"""Missions: what a mission is, its saga, its recording, checkpoints, results and reports."""
