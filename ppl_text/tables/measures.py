"""How a row is measured, by the name that a table gives it."""

from __future__ import annotations

from .of_sentences import measure_sentences, no_oracle
from .of_words import measure_word_oracle, measure_words

MEASURES = {"words": (measure_words, measure_word_oracle), "sentences": (measure_sentences, no_oracle)}
"""What measures a run, and what measures a row without one."""
