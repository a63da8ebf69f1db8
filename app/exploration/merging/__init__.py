"""Maps of several robots made one, with known poses or by registration."""
