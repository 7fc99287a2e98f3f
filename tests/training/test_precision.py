"""bf16 on the CPU: attention and products of a small Transformer run in it; densities, KLs and parameters do not."""

import math

import pytest
import torch
from lightning_fabric import Fabric
from pyro import distributions as dist
from pyro import plate, sample
from torch import nn
from torch.nn import functional as F

from ppl_text import objectives
from ppl_text.core.latents import LatentSpec
from ppl_text.core.vocabulary import OWN_IDS
from ppl_text.distributions.precision import at_least_float32
from ppl_text.distributions.tokens import DecodedTokens
from ppl_text.objectives.terms import trace_terms
from ppl_text.training.optimizers import build_optimizer

from .conftest import metrics
from .small_world import D, T, V

WIDTH, HEADS, BLOCKS = 16, 4, 2
SITES = ("z_1", "z_2")


class Block(nn.Module):
    """One Transformer block, its norms before attention and feed-forward part."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x, mask=None):
        parts = self.qkv(self.first(x)).unflatten(-1, (3, HEADS, WIDTH // HEADS)).movedim(-3, 0).transpose(-2, -3)
        heads = F.scaled_dot_product_attention(*parts, attn_mask=mask, is_causal=mask is None)
        x = x + self.out(heads.transpose(-2, -3).flatten(-2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    """p(z_1) = N(0, I), p(z_2 | z_1) = N(A z_1, I), and tokens from causal blocks that see W z_2 in each embedding."""

    family = "small"
    latents = tuple(LatentSpec(name, ("D",), {"D": D}) for name in SITES)

    def __init__(self):
        super().__init__()
        self.embedding, self.places = nn.Embedding(V, WIDTH), nn.Parameter(0.1 * torch.randn(T, WIDTH))
        self.link, self.given = nn.Linear(D, D), nn.Linear(D, WIDTH)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(BLOCKS)), nn.LayerNorm(WIDTH)
        self.register_buffer("zero", torch.zeros(D))
        self.register_buffer("one", torch.ones(D))

    def forward(self, batch):
        with plate("sentences", batch.size, dim=-1):
            first = sample("z_1", dist.Normal(self.zero, self.one).to_event(1))
            second = sample("z_2", dist.Normal(at_least_float32(self.link(first)), self.one).to_event(1))
            x = self.embedding(batch.decoder_inputs) + self.places + self.given(second).unsqueeze(-2)
            for block in self.blocks:
                x = block(x)
            head = self.embedding.weight[OWN_IDS.first_outcome :]
            tokens = DecodedTokens(self.norm(x), head, None, batch.lengths)
            sample("tokens", tokens, obs=batch.tokens)


class Reader(nn.Module):
    """q(z_1, z_2 | w): Gaussians of the mean state of bidirectional blocks that do not see padding."""

    family = "small"

    def __init__(self, model):
        super().__init__()
        self._model = (model,)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, 2 * D) for _ in SITES)

    def forward(self, batch):
        (model,) = self._model
        counted = torch.arange(T) < batch.lengths.unsqueeze(-1)
        x = model.embedding(batch.tokens) + model.places
        for block in self.blocks:
            x = block(x, counted[:, None, None, :])
        summary = (x * counted.unsqueeze(-1)).sum(-2) / batch.lengths.unsqueeze(-1)
        with plate("sentences", batch.size, dim=-1):
            for site, head in zip(SITES, self.heads, strict=True):
                loc, raw = at_least_float32(head(summary)).chunk(2, -1)
                sample(site, dist.Normal(loc, F.softplus(raw) + 1e-3).to_event(1))


def world():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Transformer()
        return model, Reader(model)


def trained(make, folder, precision, objective):
    """Twelve updates, and the precisions of what the blocks gave and of all that the objective saw."""
    fabric, seen = Fabric(accelerator="cpu", devices=1, precision=precision), {"blocks": set(), "densities": set()}
    built = objectives.build(objective)

    class Seeing(type(built)):
        def __call__(self, model, guide, batch, beta=1.0):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                terms = trace_terms(model, guide, batch)
            found = super().__call__(model, guide, batch, beta)
            densities = [
                terms.log_likelihood,
                *(t for s in terms.latents.values() for t in (s.value, s.log_p, s.log_q)),
            ]
            reported = [found.loss, found.bound, found.kl, found.log_likelihood]
            seen["densities"] |= {tensor.dtype for tensor in (*densities, *reported)}
            return found

    made = make(
        folder, world=world, objective=Seeing(**vars(built)), fabric=fabric, log_every=1,
        optimizer=lambda groups, lr: build_optimizer("adamw", groups, lr=lr, weight_decay=0.01),
    )  # fmt: skip
    for block in (*made.model.blocks, *made.guide.blocks):
        block.up.register_forward_hook(lambda part, given, out: seen["blocks"].add(out.dtype))
    made.trainer.fit()
    return made, metrics(folder), seen


@pytest.mark.parametrize("objective", ["elbo", "elbo-analytic", "iwae:4", "free-bits:0.5"])
def test_networks_run_in_bf16_and_densities_stay_in_float32(make, tmp_path, objective):
    made, records, seen = trained(make, tmp_path / "half", "bf16-mixed", objective)
    assert seen == {"blocks": {torch.bfloat16}, "densities": {torch.float32}}
    assert {value.dtype for value in made.parameters().values()} == {torch.float32}
    moments = [m for state in made.optimizer.state.values() for m in state.values()]
    assert {moment.dtype for moment in moments} == {torch.float32}
    _, whole, full = trained(make, tmp_path / "full", "32-true", objective)
    assert full == {"blocks": {torch.float32}, "densities": {torch.float32}}
    # The first update's figures, of the same parameters and draws: a rounding for each product in a row, three a block
    # and three around them.
    rounding = torch.finfo(torch.bfloat16).eps * (3 * BLOCKS + 3)
    for name in ("loss", "bound", "log_likelihood", "kl", "grad_norm"):
        assert records[0][name] == pytest.approx(whole[0][name], rel=rounding), name
    assert all(math.isfinite(record[name]) for record in records for name in ("bound", "kl"))
