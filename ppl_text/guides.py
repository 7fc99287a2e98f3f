"""The package ``guides`` that is installed beside this one, by a name that nothing in a user's folder hides.

Where ``guides`` is a module of the user's own, ``from ppl_text.guides.deep_state_space import ChainGuide`` has ours.
"""

from __future__ import annotations

from .core.registry import load_package, place_beside

load_package(__name__, place_beside("guides"))
