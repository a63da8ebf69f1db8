"""Collaborative exploration of a floor by robots with lidar, and nothing of messaging.

Everything here is a plain value or a pure function of values, in metres and simulated seconds.
Poses are known in one frame; files stand in `map_files` and `picture` only.
"""
