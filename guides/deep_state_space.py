"""Guides of the deep state-space word model: q(h_{1:T} | w_{1:T}) over the single site ``h``.

Source: Schmidt and Hofmann 2018, eqs. (3), (7), section 2.5 and Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta, Normal
from torch import Tensor, nn

from ppl_text.core.batch import Batch
from ppl_text.core.errors import UnknownNameError
from ppl_text.distributions.chains import FlowChain, Kernel
from ppl_text.distributions.transforms import ConditionalFlow, FlowFamily, Stack, conditional_flow
from ppl_text.nn.recurrent import BackwardGRU, BidirectionalGRU

from .base import SiteGuide

READERS: dict[str, type[BackwardGRU] | type[BidirectionalGRU]] = {
    "backward": BackwardGRU,
    "bidirectional": BidirectionalGRU,
}
"""What reads the word for a guide, by name."""


class StateSpaceModel(Protocol):
    """What the model publishes for its guides."""

    vocab_size: int
    state_dim: int
    initial: nn.Parameter
    """h_0, (D,)."""
    transition: ConditionalFlow
    """F_g."""

    def prior(self, lengths: Tensor, steps: int) -> FlowChain:
        """p(h_{1:T})."""
        ...


class ChainGuide(SiteGuide[StateSpaceModel]):
    """q(h_{1:T} | w) = Π_t q(h_t | h_{t-1}, c_t): base of the guides for ``deep_state_space``.

    To write your own: inherit, set in ``__init__`` (after ``super().__init__(model)``)

    - ``self.reader``: a module ``(tokens (B, T), lengths (B,)) -> contexts (B, T, C)``, or None, and
    - ``self.kernel``: the step h_t = f(ξ_t; h_{t-1}, c_t), most easily
      ``conditional_flow("tril", model.state_dim, context_dim=self.reader.output_dim)``,

    and give the class a docstring whose first line is its density. What the model publishes and you may
    use: ``model.state_dim``, ``model.vocab_size``, ``model.initial`` (h_0), ``model.transition`` (F_g).
    """

    family = "deep_state_space"
    site = "h"
    kernel: Kernel

    def __init__(self, model: StateSpaceModel) -> None:
        super().__init__(model)
        self.reader: nn.Module | None = None

    def posterior(self, batch: Batch) -> FlowChain:
        """q(h_{1:T} | w_{1:T}) for a batch: event (T, D), batch (B,)."""
        return FlowChain(self.kernel, self.model.initial, batch.lengths, batch.steps, self.read(batch))

    def read(self, batch: Batch) -> Tensor | None:
        """Return the contexts c_1..c_T, (B, T, C), or None without a reader."""
        return None if self.reader is None else self.reader(batch.tokens, batch.lengths)

    def smc_init(self, state: Mapping[str, Tensor], batch: Batch) -> FlowChain:
        """Begin the same guide step by step (particle filters, Algorithm 1): site ``h_0``.

        Returns the chain that :meth:`smc_step` takes its steps from: the word is read once.
        """
        with pyro.plate("sentences", batch.size, dim=-1):
            pyro.sample("h_0", Delta(self.model.initial, event_dim=1))
            return self.posterior(batch)

    def smc_step(self, state: Mapping[str, Tensor], batch: Batch, t: int, chain: FlowChain | None = None) -> None:
        """Make step t = 0, …, T-1: sample ``h_{t+1}`` given ``state["h"]`` = h_t; masked where the word has ended.

        ``chain`` is what :meth:`smc_init` returned; it is made anew where it is not given (SMCFilter drops it).
        """
        with pyro.plate("sentences", batch.size, dim=-1), poutine.mask(mask=batch.lengths > t):
            chain = self.posterior(batch) if chain is None else chain
            pyro.sample(f"h_{t + 1}", chain.at(t, state["h"]))


class ReadingGuide(ChainGuide):
    """q(h_t | h_{t-1}, c_t) with contexts c_t from a recurrent reader: base of the guides that read the word.

    Subclasses choose the reader, the flow (``diag`` or ``tril``) and whether h_{t-1} is fed back.

    Args:
        model: p(h, w).
        embedding_dim: width of the tokens' embeddings.
        gru_dim: units of the reader, in each direction.
        hidden: widths of the network behind the flow.
        delta: least standard deviation (least diagonal entry of G).
    """

    reader_class: type[BackwardGRU] | type[BidirectionalGRU] = BackwardGRU
    flow = "diag"
    feedback = True

    def __init__(
        self,
        model: StateSpaceModel,
        *,
        embedding_dim: int = 32,
        gru_dim: int = 64,
        hidden: Sequence[int] = (64, 64),
        delta: float = 1e-3,
    ) -> None:
        super().__init__(model)
        dim = model.state_dim
        reader = self.reader_class(model.vocab_size, embedding_dim, gru_dim)
        self.reader = reader
        self.kernel = conditional_flow(
            self.flow,
            dim,
            state_dim=dim if self.feedback else 0,
            context_dim=reader.output_dim,
            hidden=hidden,
            delta=delta,
        )


class DiagonalGuide(ReadingGuide):
    """q(h_t | h_{t-1}, w_{t:T}) = N(m(h_{t-1}, a_t), diag s(h_{t-1}, a_t)²), a_t a backward GRU: the paper's.

    The paper draws ξ_t ~ N(μ, diag σ²) from (h_{t-1}, a_t) and maps it by F_q = DIAG(h_{t-1}); the two
    together are this one diagonal Gaussian (specification 4G.2), computed by one network.
    """


class TriangularGuide(ReadingGuide):
    """q(h_t | h_{t-1}, w_{t:T}) = N(m, G Gᵀ), G(h_{t-1}, a_t) lower-triangular: a full covariance per step."""

    flow = "tril"


class BidirectionalGuide(ReadingGuide):
    """q(h_t | h_{t-1}, w_{1:T}) = N(m, diag s²), contexts from a GRU in each direction (the paper's BIDI)."""

    reader_class = BidirectionalGRU


class MeanFieldGuide(ReadingGuide):
    """q(h_t | w_{1:T}) = N(m(c_t), diag s(c_t)²), no state feedback: steps are independent given the word.

    The contexts come from both directions, since no state carries the past. The whole path is drawn at
    once, without a loop over time.
    """

    reader_class = BidirectionalGRU
    feedback = False


class SharedTransitionGuide(ReadingGuide):
    """q(h_t | h_{t-1}, w_{t:T}): h_t = f_g(μ + σ ∘ ε; h_{t-1}), the model's own transition F_q = F_g.

    The special case of section 2.3: s = f_g^{-1} ∘ f_q is the identity, log-determinants cancel, and the
    guide only learns which noise N(μ(h_{t-1}, a_t), diag σ²) to feed into the transition.
    """

    def posterior(self, batch: Batch) -> FlowChain:
        """q(h_{1:T} | w_{1:T}) through the model's transition."""
        kernel = _NoiseThenTransition(self.kernel, self.model.transition)
        context = self.read(batch)
        return FlowChain(kernel, self.model.initial, batch.lengths, batch.steps, context)


class LookAheadGuide(ChainGuide):
    """q(h_t | h_{t-1}, F_g(h_{t-1}, ξ_t), w_{t:T}) with ξ_t ~ N(0, I): a proposal that has seen where the model may go.

    Algorithm 1: each particle simulates a next state of the *model*, h_{g,t} = F_g(h_{t-1}, ξ_t), and the
    proposal N(m, diag s²) (or N(m, G Gᵀ), ``flow="tril"``) is conditioned on it. ξ_{1:T} is the auxiliary site
    ``h_ahead``: for each fixed ξ this is an ordinary guide, so every bound under it is a bound. Gradients reach F_g
    through h_g too. Made for ``stepwise:K`` and ``fivo:N``; all other objectives take it as well (stock
    ``pyro.infer.SMCFilter``, which knows no auxiliary sites, does not).

    Args:
        model: p(h, w).
        flow: of the proposal, ``diag`` or ``tril``.
        reader: ``backward``, or ``bidirectional`` (the paper's BIDI), which gives
            q(h_t | h_{t-1}, F_g(h_{t-1}, ξ_t), w_{1:T}).
        embedding_dim: width of the tokens' embeddings.
        gru_dim: units of the reader, in each direction.
        hidden: widths of the network behind the flow.
        delta: least standard deviation (least diagonal entry of G).
    """

    def __init__(
        self,
        model: StateSpaceModel,
        *,
        flow: str = "diag",
        reader: str = "backward",
        embedding_dim: int = 32,
        gru_dim: int = 64,
        hidden: Sequence[int] = (64, 64),
        delta: float = 1e-3,
    ) -> None:
        super().__init__(model)
        if reader not in READERS:
            raise UnknownNameError("reader", reader, READERS)
        reading = READERS[reader](model.vocab_size, embedding_dim, gru_dim)
        self.reader, dim = reading, model.state_dim
        self.kernel = conditional_flow(
            flow, dim, state_dim=2 * dim, context_dim=reading.output_dim, hidden=hidden, delta=delta
        )

    def posterior(self, batch: Batch) -> FlowChain:
        """q(h_{1:T} | ξ_{1:T}, w_{1:T}); samples site ``h_ahead``, so it must be called inside the sentence plate."""
        like = self.model.initial
        steps = torch.zeros(batch.steps, like.shape[-1], dtype=like.dtype, device=like.device)
        noise = Normal(steps, torch.ones_like(steps)).to_event(2).mask(False)
        ahead = pyro.sample("h_ahead", noise, infer={"is_auxiliary": True})
        kernel = _LookAhead(self.kernel, self.model.transition, ahead)
        return FlowChain(kernel, self.model.initial, batch.lengths, batch.steps, self.read(batch))


class PriorGuide(ChainGuide):
    """q(h_{1:T} | w) = p(h_{1:T}): the model's own chain ("bootstrap"), blind to the word, no parameters."""

    def posterior(self, batch: Batch) -> FlowChain:
        """p(h_{1:T}) of the model."""
        return self.model.prior(batch.lengths, batch.steps)


class _NoiseThenTransition:
    """Kernel f_g ∘ f_noise: first the guide's noise, then the model's transition. Owns no parameters."""

    feedback = True

    def __init__(self, noise: Kernel, transition: Kernel) -> None:
        self._noise, self._transition = noise, transition
        self.family: FlowFamily = Stack([noise.family, transition.family])

    def project(self, context: Tensor | None = None) -> Tensor:
        return self._noise.project(context)

    def params(self, state: Tensor, projected: Tensor) -> Tensor:
        noise = self._noise.params(state, projected)
        transition = self._transition.params(state, self._transition.project())
        return torch.cat([noise, transition.expand(*noise.shape[:-1], -1)], dim=-1)


class _LookAhead:
    """Kernel whose parameters at t are those of ``proposal`` given [h_{t-1}; F_g(h_{t-1}, ξ_t)]. Owns no parameters.

    ``noise`` is ξ_{1:T}, (…, B, T, D).
    """

    feedback = True

    def __init__(self, proposal: Kernel, transition: Kernel, noise: Tensor) -> None:
        self._proposal, self._transition, self._noise = proposal, transition, noise
        self.family = proposal.family

    def project(self, context: Tensor | None = None) -> Tensor:
        projected = self._proposal.project(context)
        leading = torch.broadcast_shapes(projected.shape[:-1], self._noise.shape[:-1])
        return torch.cat([projected.expand(*leading, -1), self._noise.expand(*leading, -1)], dim=-1)

    def params(self, state: Tensor, projected: Tensor) -> Tensor:
        context, noise = projected.split([projected.shape[-1] - state.shape[-1], state.shape[-1]], dim=-1)
        transition = self._transition
        ahead = transition.family(transition.params(state, transition.project())).forward_and_ladj(noise)[0]
        return self._proposal.params(torch.cat([state.expand_as(ahead), ahead], dim=-1), context)
