"""The contract between the rooms: what a model, a guide and an objective must offer.

These are structural types (``typing.Protocol``): nothing has to inherit from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from .batch import Batch
from .latents import Latents, LatentSpec
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor, nn


class Choice(NamedTuple):
    """What a paper printed beside what is right: a dotted key of the configuration, or a measure.

    ``paper`` and ``corrected`` are the two values, ``why`` is the reason for the difference. ``trained``: a preset
    switches the key; otherwise ``reproduce`` measures both ways.
    """

    key: str
    paper: Any
    corrected: Any
    why: str
    trained: bool = True


State = tuple["Tensor", ...]
"""What a decoder remembers of each row: tensors whose axis 0 is the row, so that rows can be repeated and reordered."""


class Decoder(Protocol):
    """Writes texts token by token, given the latents (and sources) that it was made for.

    All search strategies drive it. Sites that are interleaved with the tokens are sampled inside :meth:`step`. One that
    cannot go on for ever says as ``longest`` how many tokens it writes at most, where texts without an end are cut off.
    """

    def begin(self, rows: int) -> State:
        """Return the state before the first token of ``rows`` texts: as many as the latents have."""
        ...

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Return the logits (R, outcomes) of what follows ``tokens`` (R,), BOS at first, and the state after them."""
        ...


@runtime_checkable
class Model(Protocol):
    """p(latents, tokens): an ``nn.Module``, built as ``Model(vocabulary, **options)``, whose ``forward`` is a program.

    It opens ``pyro.plate("sentences", B, dim=-1)``, samples each site of ``latents`` and observes the
    site ``tokens``. Networks accept any leading axes, so that an objective may open
    ``pyro.plate("particles", K, dim=-2)`` around it. Parameters are ordinary ``nn.Parameter``s.

    For generation it offers ``draw`` and either

    - ``decoder(latents, source) -> Decoder``, where tokens are fed back, or
    - ``emit(latents) -> distribution`` over the tokens (event (T,), with ``sample()`` and ``mode``), where they depend
      on the latents alone;

    and ``between(first, second, points, lengths) -> Latents`` where the straight way between two values is wrong, and
    ``draw_given(lengths, source) -> Latents`` where ``draw`` draws how long each text is: latents of texts of these
    lengths (n,), EOS counted. With
    ``generation = "posterior"`` the story decodes from q: the guide's own ``draw`` and ``decoder`` are used instead.
    Step-wise sampling for particle filters is ``smc_init`` and ``smc_step`` (:mod:`ppl_text.objectives.sequential`).

    Class attributes that shared rooms read where they are there: ``story`` (lines that ``explain`` prints),
    ``measures`` (names in :data:`ppl_text.measures.MEASURES`), ``presets`` (:class:`Choice`), ``decides`` (option ->
    options that it decides: a recipe's values of these are dropped where it is set for a run), ``former_names`` (prefix
    of parameters in weights of older versions -> present prefix); and a class method ``settled(options)``, which
    returns a model's options with those filled in that others decide. Any part of model or guide may have
    ``sharded_blocks``: submodules that are only ever called as a whole, whose parameters processes that hold a part of
    them each (``strategy: fsdp``) gather one block after the other.
    """

    family: str
    vocabulary: Vocabulary
    latents: tuple[LatentSpec, ...]

    def forward(self, batch: Batch) -> Any:
        """The Pyro program."""
        ...

    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """Draw latents ~ p, n rows; a step axis T has ``steps`` steps. ``source`` has n rows where there is one."""
        ...


@runtime_checkable
class Guide(Protocol):
    """q(latents | text): an ``nn.Module``, built as ``Guide(model, **options)``, over the model's latents.

    Its optional ``draw`` and ``decoder`` are those of :class:`Model`, for stories that decode from q; ``at_means()``
    returns an object with the same two, which takes posterior means in the place of draws. ``attention(batch)``, for
    pictures, returns the mean weights (B, T, S) of a source and their spread, (B, T, S), (B, T), or None where they are
    not drawn; None in the place of both where there are no weights. Where its draws cannot be differentiated, a class
    attribute ``objective`` names the bound that it is refitted by.
    """

    family: str

    def forward(self, batch: Batch) -> Any:
        """The Pyro program."""
        ...


class Estimate(NamedTuple):
    """What an objective says about one batch; every field but ``loss`` is per sentence, in nats.

    ``loss``            scalar to descend: what was trained, with β, free bits and side losses
    ``bound``           (B,) a lower bound of log p(tokens) at β = 1, without any of them
    ``log_likelihood``  (B,) mean over particles of log p(tokens | latents)
    ``kl``              (B,) KL(q ‖ p) of all latents: in closed form or by Monte Carlo over the particles
    ``ess``             (B,) effective sample size of the estimator's own weights by K, in (0, 1]; mean over the
                        steps for step-wise estimators; None for one particle and where there are no weights
    """

    loss: Tensor
    bound: Tensor
    log_likelihood: Tensor
    kl: Tensor
    ess: Tensor | None = None


class Objective(Protocol):
    """A bound and its gradient estimator: ``objective(model, guide, batch, beta) -> Estimate``."""

    @property
    def name(self) -> str:
        """The text that :func:`ppl_text.objectives.build` makes it from."""
        ...

    @property
    def particles(self) -> int:
        """K."""
        ...

    def __call__(
        self,
        model: nn.Module,
        guide: nn.Module,
        batch: Batch,
        beta: float | Tensor | Mapping[str, float | Tensor] = 1.0,
    ) -> Estimate:
        """Estimate the bound and the loss of one batch."""
        ...
