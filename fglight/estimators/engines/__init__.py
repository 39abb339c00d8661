"""How inner products with a target are computed."""
