"""L3: what a trained run is worth. Everything printed here is computed at β = 1."""
