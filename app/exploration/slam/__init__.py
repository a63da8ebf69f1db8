"""Localization and mapping for robots that know neither where they are nor how far they drove.

Matching of scans, a pose graph with a robust back end, the map drawn from both, and the matching
of whole maps whose frames are unrelated.
"""
