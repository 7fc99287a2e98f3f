"""L0: the types and errors that all rooms share. Imports neither torch nor pyro."""
