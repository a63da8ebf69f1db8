"""How handlers are read and called: their parameters, their dependencies, their results."""
