"""VDA 5050: messages of three versions, the adapter that drives such robots, a simulated robot."""
