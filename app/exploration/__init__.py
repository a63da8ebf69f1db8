"""Collaborative exploration of a floor by robots with lidar; no messaging.

Everything here is a plain value or a pure function of values, in metres and simulated seconds.
Only `map_files` and `simulation.log_replay` read or write files.
"""
