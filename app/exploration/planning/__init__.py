"""Where robots drive: frontiers, paths, assignment, coordination of a team."""
