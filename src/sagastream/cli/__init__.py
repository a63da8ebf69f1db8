"""`sagastream`: operator commands."""
