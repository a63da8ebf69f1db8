"""Maps of several robots merged into one, with known poses or by registration."""
