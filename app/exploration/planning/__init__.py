"""Where robots drive: frontiers, routes, goals, assignment, rendezvous."""
