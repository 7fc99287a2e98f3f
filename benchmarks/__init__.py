"""Races: how long one training step takes, ours beside peers that compute the same thing."""
