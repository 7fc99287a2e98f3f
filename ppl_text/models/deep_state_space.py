"""Deep state-space model of words: a Markov chain of flows, no token feedback.

Source: Schmidt and Hofmann 2018, "Deep State Space Models for Unconditional Word Generation",
eqs. (1), (2), (8) and (10).
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from itertools import pairwise

import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.errors import UserError
from ..core.latents import Latents, LatentSpec
from ..core.protocols import Choice
from ..core.vocabulary import Vocabulary
from ..distributions.chains import FlowChain
from ..distributions.tokens import TokenSequence
from ..distributions.transforms import conditional_flow


class DeepStateSpace(nn.Module):
    """p(h_{1:T}, w_{1:T}) = Π_t p(h_t | h_{t-1}) P(w_t | h_t).

    h_t = F_g(h_{t-1}, ξ_t) with ξ_t ~ N(0, I_D) (eq. 1), so p(h_t | h_{t-1}) = r(ζ_t) / |det J_{f_g}(ζ_t)|
    with ζ_t = f_g^{-1}(h_t) (eq. 8); P(w_t | h_t) = softmax(E h_t + b). h_0 is learned. Tokens are never
    fed back. A word ends at its first EOS and nothing after it is scored.

    Args:
        vocabulary: V symbols, O of them outcomes.
        state_dim: D (the paper's default is 8).
        transition: F_g: ``diag``, ``tril``, ``nvp`` (Real-NVP) or ``tril-nvp`` (Real-NVP on the noise, then TRIL).
        layers: n of n×TRIL; for ``nvp`` and ``tril-nvp`` the number of couplings (1: six of them). With ``diag`` and
            ``tril`` p(h_t | h_{t-1}) is Gaussian for every n (specification 4G.1).
        hidden: widths of the MLP that computes the flow's parameters from h_{t-1}.
        parametrization: ``inverse`` parametrises f_g^{-1}, so that training needs no triangular solve
            (the paper's advice, section 2.4); ``direct`` parametrises f_g. Only ``tril`` knows both.
        diagonal, delta: how diagonals stay away from zero, see :class:`~ppl_text.distributions.transforms.Triangular`.
        masks: ``halves`` or ``paper``, see :class:`~ppl_text.distributions.transforms.RealNVP`.
        emission_hidden: widths of tanh layers between h_t and the softmax; none in the paper: P(w_t | h_t) is then
            log-linear in h_t, and one Gaussian step must move the state between 27 convex regions.
    """

    family = "deep_state_space"
    longest_text = 41
    """Scored tokens of the longest text that the model is made for: a word of 40 letters, and EOS."""
    story = (
        "h_t = F(h_{t-1}, ξ_t), ξ_t ~ N(0, I);  w_t ~ softmax(E h_t + b);  the word ends at its first EOS",
        "p(h, w) = Π_t p(h_t | h_{t-1}) P(w_t | h_t)",
    )
    measures = ("words", "sentences")
    presets = (
        Choice(
            "model.diagonal",
            "clip",
            "softplus+delta",
            "clipping |G_ii| at δ has no gradient inside and a jump at 0; the sign of a column does not change G Gᵀ",
        ),
        Choice(
            "model.masks",
            "paper",
            "halves",
            "Real-NVP with masks 2..7 in one order never transforms the first two coordinates (nvp, tril-nvp only)",
        ),
        Choice(
            "objective",
            "elbo",
            "elbo-analytic",
            "for Gaussian steps the KL given h_{t-1} has a closed form, which spares the noise of one sample (K = 1)",
        ),
        Choice(
            "cross-entropy",
            "prior Monte Carlo, number of trajectories unstated",
            "importance weighting through the guide",
            "the logarithm of a mean over prior paths is biased, most for rare words; reproduce prints both",
            trained=False,
        ),
        Choice(
            "entropy gap",
            "20 draws",
            "1,000 draws",
            "the entropy of a mixture of 20 is at most ln 20 and biased low; reproduce prints both",
            trained=False,
        ),
    )

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        state_dim: int = 8,
        transition: str = "tril",
        layers: int = 1,
        hidden: Sequence[int] = (64, 64),
        parametrization: str = "inverse",
        diagonal: str = "softplus+delta",
        delta: float = 0.1,
        masks: str = "halves",
        emission_hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if parametrization not in ("inverse", "direct"):
            raise UserError(f"parametrization must be 'inverse' or 'direct'; got '{parametrization}'")
        self.vocabulary, self.vocab_size, self.state_dim = vocabulary, vocabulary.size, state_dim
        self.latents = (LatentSpec("h", axes=("T", "D"), sizes={"D": state_dim}),)
        self.initial = nn.Parameter(torch.zeros(state_dim))
        self.transition = conditional_flow(
            transition,
            state_dim,
            layers=layers,
            hidden=hidden,
            inverse=parametrization == "inverse",
            diagonal=diagonal,
            delta=delta,
            masks=masks,
        )
        self.emission = _emission(state_dim, emission_hidden, vocabulary.outcomes)

    def prior(self, lengths: Tensor, steps: int) -> FlowChain:
        """p(h_{1:T}) for words of these lengths: event (T, D), batch (B,)."""
        return FlowChain(self.transition, self.initial, lengths, steps)

    def likelihood(self, states: Tensor, lengths: Tensor) -> TokenSequence:
        """P(w_{1:T} | h_{1:T}) for states (…, B, T, D)."""
        return TokenSequence(self.emission(states), lengths, self.vocabulary.ids)

    def forward(self, batch: Batch) -> Tensor:
        """The Pyro program: samples site ``h``, observes site ``tokens``, returns h."""
        with pyro.plate("sentences", batch.size, dim=-1):
            states: Tensor = pyro.sample("h", self.prior(batch.lengths, batch.steps))
            pyro.sample("tokens", self.likelihood(states, batch.lengths), obs=batch.tokens)
        return states

    def smc_init(self, state: MutableMapping[str, Tensor], batch: Batch) -> FlowChain:
        """Begin the same story step by step, as in ``pyro.infer.SMCFilter``: site ``h_0``, ``state["h"]`` = h_0.

        Returns the chain that :meth:`smc_step` takes its steps from.
        """
        with pyro.plate("sentences", batch.size, dim=-1):
            state["h"] = pyro.sample("h_0", Delta(self.initial, event_dim=1))
        return self.prior(batch.lengths, batch.steps)

    def smc_step(
        self, state: MutableMapping[str, Tensor], batch: Batch, t: int, chain: FlowChain | None = None
    ) -> None:
        """Make step t = 0, …, T-1: sample site ``h_{t+1}``, observe ``w_{t+1}``; masked where the word has ended.

        ``chain`` is what :meth:`smc_init` returned; it is made anew where it is not given (SMCFilter drops it).
        """
        chain = self.prior(batch.lengths, batch.steps) if chain is None else chain
        with pyro.plate("sentences", batch.size, dim=-1), poutine.mask(mask=batch.lengths > t):
            states: Tensor = pyro.sample(f"h_{t + 1}", chain.at(t, state["h"]))
            letter = self.likelihood(states.unsqueeze(-2), torch.ones_like(batch.lengths))
            pyro.sample(f"w_{t + 1}", letter, obs=batch.tokens[:, t : t + 1])
        state["h"] = states

    @torch.no_grad()
    def draw(self, n: int, steps: int, source: Batch | None = None) -> Latents:
        """h_{1:T} ~ p, (n, T, D) for T = ``steps``."""
        lengths = torch.full((n,), steps, device=self.initial.device)
        return {"h": self.prior(lengths, steps).sample()}

    def emit(self, latents: Latents) -> TokenSequence:
        """P(w_{1:T} | h_{1:T}) over all T steps of given states (…, R, T, D)."""
        states = latents["h"]
        lengths = torch.full(states.shape[:-2], states.shape[-2], device=states.device)
        return self.likelihood(states, lengths)

    @torch.no_grad()
    def between(self, first: Latents, second: Latents, points: int, lengths: tuple[int, int]) -> Latents:
        """``points`` paths (n, T, D) between two (T, D): spherically in the noise ξ that drives F_g.

        The noise of a path is ζ_t = f_g^{-1}(h_t); past a word's own length it is 0, the mode. For
        weights cos θ and sin θ two draws of N(0, I) combine to a draw of N(0, I), so every point between
        is as typical of the prior as its ends.
        """
        ends = torch.stack([first["h"], second["h"]])
        chain = self.prior(torch.tensor(lengths, device=ends.device), ends.shape[1])
        noise, _ = chain.pull_back(ends)
        noise = torch.where(chain.mask.unsqueeze(-1), noise, 0.0)
        angle = torch.linspace(0, torch.pi / 2, points, device=ends.device).view(-1, 1, 1)
        states, _ = chain.push_forward(angle.cos() * noise[0] + angle.sin() * noise[1])
        return {"h": states}


def _emission(state_dim: int, hidden: Sequence[int], outcomes: int) -> nn.Module:
    """Return the logits of the outcomes given h_t: linear, or with tanh layers between.

    Unit-scale letter embeddings: with torch's small default the first gradients say that h is not worth its KL, and
    training starts from a collapsed guide.
    """
    widths = [state_dim, *hidden, outcomes]
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Tanh()] if layers else []
        layers.append(nn.Linear(width, following))
    nn.init.normal_(layers[-1].weight, std=(state_dim / widths[-2]) ** 0.5)  # type: ignore[arg-type]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)
