"""Where robots drive: frontiers, stops, routes, rendezvous."""
