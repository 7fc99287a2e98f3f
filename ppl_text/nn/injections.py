"""Ways for latents to enter a decoder of L layers: what is added to embeddings, to states, to values, to a memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor, nn

from .backbone import Injected
from .fusion import LowRankFusion
from .initial import GPT2_SCALE, normal_linear

_map = partial(normal_linear, bias=False)

ByLayer = Sequence[Tensor | None]
"""The latent of each of L layers, (R, D); None where a layer has none."""


class Injection(nn.Module):
    """How latents (R, D) enter a decoder; this one: they do not.

    To write your own: inherit, build what maps latents in ``__init__``, which is given the numbers below, and define
    one or more of the three methods. Name the class in :data:`INJECTIONS`.

    Args:
        places: the layers, from 0, that have a latent.
        latent_dim: D; width: H of the states; value_dim: d of the values of a layer.
    """

    def __init__(self, places: Sequence[int], *, latent_dim: int, width: int, value_dim: int) -> None:
        super().__init__()
        self.places = tuple(places)
        self.latent_dim, self.width, self.value_dim = latent_dim, width, value_dim

    def to_embeddings(self, latents: ByLayer) -> Tensor | None:
        """Return what is added to the embedding of each token, (R, H)."""
        return None

    def to_layers(self, latents: ByLayer) -> Injected:
        """Return what layers are given."""
        return Injected()

    def to_outputs(self, latents: ByLayer) -> Tensor | None:
        """Return what is added to each last state, (R, H)."""
        return None

    def last(self, latents: ByLayer) -> Tensor:
        """Return the latent of the last layer that has one."""
        found = latents[self.places[-1]]
        if found is None:
            raise ValueError(f"layer {self.places[-1] + 1} has no latent")
        return found


class ToEmbeddings(Injection):
    """W z is added to the embedding of each token (Optimus, Li et al. 2020, "Embedding").

    W starts so small that W z is no larger than the embedding of a token that starts at random: else it drowns that.
    """

    def __init__(self, places: Sequence[int], **sizes: int) -> None:
        super().__init__(places, **sizes)
        self.embedding = _map(self.latent_dim, self.width, scale=_small(self.latent_dim))

    def to_embeddings(self, latents: ByLayer) -> Tensor | None:
        """W z."""
        found: Tensor = self.embedding(self.last(latents))
        return found


class ToMemory(Injection):
    """M_l z is one more key and value of layer l, the same for both (Optimus, Li et al. 2020, "Memory")."""

    def __init__(self, places: Sequence[int], **sizes: int) -> None:
        super().__init__(places, **sizes)
        self.memory = nn.ModuleDict({str(place): _map(self.latent_dim, self.value_dim) for place in self.places})

    def to_layers(self, latents: ByLayer) -> Injected:
        """[M_l z; M_l z] for each layer."""
        made = (None if z is None else self.memory[str(place)](z) for place, z in enumerate(latents))
        return Injected(memory=[None if part is None else part.repeat(1, 2) for part in made])


class ToEmbeddingsAndMemory(ToMemory, ToEmbeddings):
    """Both of these, as Optimus has them."""


class ToOutputs(Injection):
    """W z is added to the last states, in front of the softmax (Wang et al. 2019; "Softmax")."""

    def __init__(self, places: Sequence[int], **sizes: int) -> None:
        super().__init__(places, **sizes)
        self.output = _map(self.latent_dim, self.width)

    def to_outputs(self, latents: ByLayer) -> Tensor | None:
        """W z."""
        found: Tensor = self.output(self.last(latents))
        return found


class ToStates(Injection):
    """W_l z_l is added to the states in front of block l (specification 6, "residual"); W_l starts as small as W."""

    def __init__(self, places: Sequence[int], **sizes: int) -> None:
        super().__init__(places, **sizes)
        self.shift = nn.ModuleDict(
            {str(place): _map(self.latent_dim, self.width, scale=_small(self.latent_dim)) for place in self.places}
        )

    def to_layers(self, latents: ByLayer) -> Injected:
        """W_l z_l for each layer."""
        return Injected(states=[None if z is None else self.shift[str(place)](z) for place, z in enumerate(latents)])


class ToValues(Injection):
    """The values of layer l are fused with z_l, ṽ = f_l(v, z_l) (Hu et al. 2022, equation 9).

    Args:
        places, latent_dim, width, value_dim: as of any injection.
        rank, form, start: of :class:`~ppl_text.nn.fusion.LowRankFusion`.
    """

    def __init__(
        self, places: Sequence[int], *, rank: int = 4, form: str = "lmf", start: str = "identity", **sizes: int
    ) -> None:
        super().__init__(places, **sizes)
        made = {
            str(p): LowRankFusion(self.value_dim, self.latent_dim, rank=rank, form=form, start=start) for p in places
        }
        self.fusion = nn.ModuleDict(made)

    def to_layers(self, latents: ByLayer) -> Injected:
        """v -> f_l(v, z_l) for each layer."""
        fused = (None if z is None else partial(self.fusion[str(place)], latent=z) for place, z in enumerate(latents))
        return Injected(values=list(fused))


INJECTIONS: Mapping[str, type[Injection]] = {
    "none": Injection,
    "embedding": ToEmbeddings,
    "memory": ToMemory,
    "optimus": ToEmbeddingsAndMemory,
    "softmax": ToOutputs,
    "residual": ToStates,
    "value": ToValues,
}
"""Ways for latents to enter a decoder, by name."""


def _small(latent_dim: int) -> float:
    """Return the scale of weights with which W z, z ~ N(0, I), is as large as GPT-2's embeddings are at first."""
    return GPT2_SCALE / math.sqrt(latent_dim)
