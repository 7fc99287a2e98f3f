"""Copies of records and states in which one value is wrong, or missing."""

import copy

MISSING = object()
"""Stands for a value that is left out."""


def changed(values, place, wrong):
    """A copy of nested values with another one at ``place``, the keys that lead there; :data:`MISSING`: with none."""
    values = copy.deepcopy(values)
    owner = values
    for name in place[:-1]:
        owner = owner[name]
    if wrong is MISSING:
        del owner[place[-1]]
    else:
        owner[place[-1]] = wrong
    return values
