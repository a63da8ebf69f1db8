"""Missions as files and live streams of other tools: MCAP, GeoJSON, g2o, Foxglove."""
