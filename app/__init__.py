"""Mission control for collaborative exploration, built on sagastream."""
