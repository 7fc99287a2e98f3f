"""A learning rate that falls where the validation no longer improves (specification 0: the LSTM-VAE papers' rule)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core.errors import ConfigError


@dataclass(frozen=True)
class Decay:
    """After ``patience`` validations in a row that were worse than the reference, from update ``from_step`` on, the
    rate is multiplied by ``factor`` and the best parameters are taken up again; ``limit`` decays end the training.

    ``from_step`` counts from the beginning of the stage. One validation an epoch makes ``patience`` a number of epochs.
    """

    factor: float = 0.5
    patience: int = 5
    from_step: int = 0
    limit: int = 5

    def __post_init__(self) -> None:
        counts = {"patience": self.patience, "limit": self.limit}
        faults = [f"{name} must be 1 or more; got {value}" for name, value in counts.items() if value < 1]
        if not 0 < self.factor < 1:
            faults.append(f"factor must lie between 0 and 1; got {self.factor}")
        if self.from_step < 0:
            faults.append(f"from_step must be 0 or more; got {self.from_step}")
        if faults:
            raise ConfigError("decay: " + "; ".join(faults))


@dataclass
class Plateau:
    """What the rule remembers: the score to beat, the validations since then that were worse, and the decays so far.

    A score that equals the reference does not count as worse. With a decay the present score becomes the reference:
    what follows has to beat that and not the best of all, whose parameters are back (specification 0).
    """

    reference: float | None = None
    waited: int = 0
    decays: int = 0

    def see(self, rule: Decay, score: float, step: int) -> bool:
        """Take note of the validation after ``step`` updates of the stage; return whether the rate decays now."""
        if not math.isnan(score) and (self.reference is None or score >= self.reference):
            self.reference, self.waited = score, 0
            return False
        self.waited += 1
        if self.waited < rule.patience or step < rule.from_step:
            return False
        self.reference = self.reference if math.isnan(score) else score
        self.waited, self.decays = 0, self.decays + 1
        return True
