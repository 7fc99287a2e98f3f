"""Strategies that turn a decoder's next-token logits into texts: greedy, sampling, beam search.

A model takes part with a :class:`~ppl_text.core.protocols.Decoder`, which is fed the token before (BOS at first) and
scores the outcomes. All R rows move at once and a row ends at its own EOS::

    >>> import torch
    >>> class Chain:  # EOS at 0.4; else id 3, after which the text ends
    ...     def begin(self, rows):
    ...         return ()
    ...     def step(self, state, tokens):
    ...         chain = torch.tensor([[0.4, 0.6], [1.0, 0.0]]).log()
    ...         return chain[(tokens > 2).long()], state
    >>> search(Greedy(), Chain(), rows=1, steps=3).tolist()
    [[3, 2, 0]]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ..core.errors import DivergedError, UnknownNameError, UserError
from ..core.limits import MOST, MOST_BEAMS, check_most
from ..core.protocols import Decoder, State
from ..core.vocabulary import OWN_IDS, ReservedIds
from .shaping import Shaped, device_of_state

COLDEST = 1e-6
"""The lowest temperature: below it float32 no longer tells two logits apart."""

STEEPEST = 10.0
"""The largest exponent of a length: beyond it the longest text wins whatever it says."""


class Strategy(Protocol):
    """A way to choose the tokens of a text; an immutable value.

    ``name`` is that of the command line; ``deterministic``: the same decoder always gives the same text; ``width``
    rows are held for each text.
    """

    name: ClassVar[str]
    deterministic: ClassVar[bool]

    @property
    def width(self) -> int:
        """Rows for each text."""
        ...

    @property
    def min_length(self) -> int:
        """Tokens before EOS that each text has at least."""
        ...

    def shaped(self, decoder: Decoder, ids: ReservedIds) -> Decoder:
        """Return the decoder that is searched: the one given, or one around it."""
        ...

    def search(self, decoder: Decoder, rows: int, steps: int, ids: ReservedIds) -> Tensor:
        """Return the ids (rows, steps), padding after EOS; a row without EOS was cut off."""
        ...


@dataclass(frozen=True)
class Greedy(Shaped):
    """w_t = argmax p(w_t | w_{<t}): the most probable token at every step; of equal ones that of the lowest id."""

    name: ClassVar[str] = "greedy"
    deterministic: ClassVar[bool] = True
    width: ClassVar[int] = 1

    def choose(self, logits: Tensor) -> Tensor:
        """Outcome (R,) of the next token given logits (R, O)."""
        return logits.argmax(-1)

    def search(self, decoder: Decoder, rows: int, steps: int, ids: ReservedIds) -> Tensor:
        """Return the ids (rows, steps), see :class:`Strategy`."""
        return _token_by_token(self.choose, decoder, rows, steps, ids)


@dataclass(frozen=True)
class Sample(Shaped):
    """w_t ~ p(w_t | w_{<t})^{1/τ} / Z, restricted to the likeliest tokens; plain ancestral sampling by default.

    In this order: ``temperature`` τ divides the logits; ``top_k`` keeps the k most probable tokens; ``top_p`` keeps,
    of what is left and normalised anew, the nucleus: the fewest most probable tokens whose mass is at least p
    (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1), always one or more. Draws
    come from torch's global generator. Raises :class:`UserError` for values out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    name: ClassVar[str] = "sample"
    deterministic: ClassVar[bool] = False
    width: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.temperature >= COLDEST and math.isfinite(self.temperature)):
            raise UserError(
                f"temperature must be a finite number of {COLDEST:g} or more; got {self.temperature} (its limit 0 is "
                "the strategy greedy)"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k, the number of tokens to draw from, must be 1 or more; got {self.top_k}")
        check_most(self.top_k or 1, MOST, "top_k, the number of tokens to draw from,")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p, the share of probability to draw from, must be in (0, 1]; got {self.top_p}")

    def choose(self, logits: Tensor) -> Tensor:
        """Outcome (R,) of the next token given logits (R, O)."""
        # From the largest logit down, so that no division by a low temperature overflows.
        scaled = (logits - logits.max(-1, keepdim=True).values) / self.temperature
        if self.top_k is None and self.top_p in (None, 1):
            return torch.multinomial(scaled.softmax(-1), 1).squeeze(-1)
        most = scaled.shape[-1]
        ranked, columns = scaled.topk(most if self.top_k is None else min(self.top_k, most))
        drawn = torch.multinomial(self._nucleus(ranked.softmax(-1)), 1)
        return columns.gather(-1, drawn).squeeze(-1)

    def _nucleus(self, ranked: Tensor) -> Tensor:
        """Falling probabilities (R, k) with 0 for those outside the nucleus."""
        if self.top_p in (None, 1):
            return ranked
        before = ranked.cumsum(-1) - ranked
        return ranked.where(before < self.top_p, 0.0)

    def search(self, decoder: Decoder, rows: int, steps: int, ids: ReservedIds) -> Tensor:
        """Return the ids (rows, steps), see :class:`Strategy`."""
        return _token_by_token(self.choose, decoder, rows, steps, ids)


@dataclass(frozen=True)
class Beam(Shaped):
    """Beam search for argmax_w ln p(w) / |w|^α, |w| the scored tokens (EOS counted), α = ``length_penalty``.

    α = 0 (default) looks for the most probable text, which favours short ones; α = 1 for the best mean per token.
    This is the form |w|^α of Jean et al. 2015 ("Montreal Neural Machine Translation Systems for WMT'15"), fairseq and
    transformers, not GNMT's ((5 + |w|) / 6)^α.

    In each step the ``width`` best unfinished texts go on. An ending that is among the ``width`` best continuations of
    all is set aside with its final score and never competes with unfinished texts for a place again. A row is done when
    ``width`` endings are as good as the best unfinished text is now (the rule of transformers), or when no unfinished
    text can overtake the best ending, because ln p only falls. A row without any ending gives its best unfinished
    text. With ``width`` 1 this is :class:`Greedy`; with as many as there are texts it is exact. Raises
    :class:`UserError` for values out of range.
    """

    width: int = 5
    length_penalty: float = 0.0

    name: ClassVar[str] = "beam"
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise UserError(f"the width of a beam must be 1 or more; got {self.width}")
        check_most(self.width, MOST_BEAMS, "the width of a beam")
        if not 0 <= self.length_penalty <= STEEPEST:
            raise UserError(f"length_penalty must be a number from 0 to {STEEPEST:g}; got {self.length_penalty}")

    def search(self, decoder: Decoder, rows: int, steps: int, ids: ReservedIds) -> Tensor:
        """Return the ids (rows, steps), see :class:`Strategy`."""
        state = tuple(part.repeat_interleave(self.width, 0) for part in decoder.begin(rows))
        beams = _Beams(rows, self.width, steps, ids, device_of_state(state))
        for t in range(steps):
            logits, state = decoder.step(state, beams.last(t))
            log_p = logits.log_softmax(-1).view(rows, self.width, -1)
            candidates = beams.scores.unsqueeze(-1) + log_p
            beams.set_aside(candidates, t, self._norm(t + 1))
            parents = beams.go_on(candidates, t)
            state = tuple(part.index_select(0, parents) for part in state)
            if beams.done(now=self._norm(t + 1), at_most=self._norm(steps)):
                break
        return beams.result()

    def _norm(self, length: int) -> float:
        return float(length**self.length_penalty)


class _Beams:
    """What a beam search holds of R rows with W places each, all falling by score.

    ``texts`` (R, W, T) and ``scores`` (R, W): the unfinished texts and their ln p; ``best`` (R, T): the best ending;
    ``endings`` (R, W): the normalised scores of the best endings.
    """

    def __init__(self, rows: int, width: int, steps: int, ids: ReservedIds, device: torch.device) -> None:
        self._ids = ids
        self.scores = torch.full((rows, width), -math.inf, device=device)
        # All W begin alike: the others become possible when the first has spread.
        self.scores[:, 0] = 0.0
        self.texts = torch.full((rows, width, steps), ids.pad, device=device)
        self.best = torch.full((rows, steps), ids.pad, device=device)
        self.endings = torch.full((rows, width), -math.inf, device=device)
        self._done = torch.zeros(rows, dtype=torch.bool, device=device)

    def last(self, t: int) -> Tensor:
        """Return the token (R·W,) before step t."""
        return self.texts[..., t - 1].flatten() if t else torch.full_like(self.texts[..., 0].flatten(), self._ids.bos)

    def set_aside(self, candidates: Tensor, t: int, norm: float) -> None:
        """Take the endings among the W best of all candidates (R, W, O), scored by ln p / norm."""
        ending = candidates[..., self._ids.eos - self._ids.first_outcome]
        width = ending.shape[1]
        bar = candidates.flatten(1).topk(width).values[:, -1:]
        ends = (ending >= bar) & ~self._done.unsqueeze(-1)
        scores = ending.where(ends, -math.inf) / norm
        score, place = scores.max(-1)
        text = self.texts[torch.arange(len(place), device=place.device), place]
        text[:, t] = self._ids.eos
        self.best = torch.where((score > self.endings[:, 0]).unsqueeze(-1), text, self.best)
        self.endings = torch.cat([self.endings, scores], dim=1).topk(width).values

    def go_on(self, candidates: Tensor, t: int) -> Tensor:
        """Keep the W best that do not end; the row (R·W,) that each of them came from."""
        rows, width, _ = self.texts.shape
        unfinished = candidates.clone()
        unfinished[..., self._ids.eos - self._ids.first_outcome] = -math.inf
        self.scores, place = unfinished.flatten(1).topk(width)
        parent = place // unfinished.shape[-1]
        self.texts = self.texts.gather(1, parent.unsqueeze(-1).expand_as(self.texts))
        self.texts[..., t] = place % unfinished.shape[-1] + self._ids.first_outcome
        return (torch.arange(rows, device=place.device).unsqueeze(-1) * width + parent).flatten()

    def done(self, now: float, at_most: float) -> bool:
        """Return whether all rows are done; ``now`` and ``at_most`` divide ln p at this length and at the last."""
        overtaken = self.scores[:, 0] / now <= self.endings[:, -1]
        hopeless = self.scores[:, 0] / at_most <= self.endings[:, 0]
        self._done |= overtaken | hopeless
        return bool(self._done.all())

    def result(self) -> Tensor:
        """Return the best ending (R, T), or the best unfinished text where there is none."""
        return torch.where(self.endings[:, :1].isfinite(), self.best, self.texts[:, 0])


STRATEGIES: dict[str, type[Greedy] | type[Sample] | type[Beam]] = {s.name: s for s in (Greedy, Sample, Beam)}
"""Strategies by name."""


def as_strategy(given: Strategy | str | Mapping[str, Any]) -> Strategy:
    """Return the strategy itself, the one of that name with its defaults, or the one that a mapping describes.

    A mapping has the ``name`` and fields of the strategy, as a table's settings have them. Raises
    :class:`UnknownNameError` for names that are not known, :class:`UserError` for values out of range.

    Example::

        >>> as_strategy({"name": "beam", "width": 10, "repetition_penalty": 1.2})
        Beam(repetition_penalty=1.2, min_length=0, width=10, length_penalty=0.0)
    """
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, Mapping):
        return given
    options = dict(given)
    name = options.pop("name", None)
    if name not in STRATEGIES:
        raise UnknownNameError("strategy", str(name), STRATEGIES)
    known = [field.name for field in fields(STRATEGIES[name])]
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of the strategy {name}", option, known)
    return STRATEGIES[name](**options)


@torch.no_grad()
def search(strategy: Strategy, decoder: Decoder, rows: int, steps: int, ids: ReservedIds = OWN_IDS) -> Tensor:
    """Write texts of at most ``steps`` tokens: ids (rows, steps), padding after EOS; a row without EOS was cut off.

    Raises :class:`DivergedError` for logits that are NaN or infinite; -inf forbids a token, but not all of them.
    """
    return strategy.search(strategy.shaped(_Finite(decoder), ids), rows, steps, ids)


class _Finite:
    """A decoder whose logits are looked at."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def begin(self, rows: int) -> State:
        """Return the decoder's own."""
        return self._decoder.begin(rows)

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Return the decoder's own; raises :class:`DivergedError`."""
        logits, after = self._decoder.step(state, tokens)
        check_logits(logits)
        return logits, after


def check_logits(logits: Tensor) -> None:
    """Raise :class:`DivergedError` where logits (…, O) are NaN or +inf, or all of a row are -inf."""
    bad = ~logits.amax(-1).isfinite()
    if bool(bad.any()):
        raise DivergedError(f"the logits of tokens are NaN or infinite in {int(bad.sum()):,} of {bad.numel():,} rows")


def _token_by_token(
    choose: Callable[[Tensor], Tensor], decoder: Decoder, rows: int, steps: int, ids: ReservedIds
) -> Tensor:
    """Choose one token of every row at a time, until all have ended."""
    state = decoder.begin(rows)
    token = torch.full((rows,), ids.bos, device=device_of_state(state))
    texts = torch.full((rows, steps), ids.pad, device=token.device)
    ended = torch.zeros_like(token, dtype=torch.bool)
    for t in range(steps):
        logits, state = decoder.step(state, token)
        token = (choose(logits) + ids.first_outcome).masked_fill(ended, ids.pad)
        texts[:, t] = token
        ended |= token == ids.eos
        if bool(ended.all()):
            break
    return texts
