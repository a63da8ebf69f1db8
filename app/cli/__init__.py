"""`mission`: the commands of mission control, a module for each group of them."""
