"""How good maps, poses and teams are, measured against the true floor."""
