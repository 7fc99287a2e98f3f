"""L1: densities. Flows as Pyro transforms, chains of them as one distribution, and the token site."""
