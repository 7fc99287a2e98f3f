"""A batch of pairs, and every kind of the encoder-decoder with the guides that fit it."""

from dataclasses import replace

import torch

from guides import encoder_decoder as guides
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.batches import collate
from ppl_text.models.encoder_decoder import EncoderDecoder

TARGETS = [[4, 5, 6], [7, 8], [4]]
SOURCES = [[3, 4], [9, 3, 5, 6], []]
VOCABULARY = Vocabulary(10, source=Vocabulary(11))
SIZES = {"latent_dim": 2, "embedding_dim": 3, "encoder_dim": 2, "hidden_dim": 4, "output_dim": 3}

LATENT = {
    "z": ({"attention": "deterministic"}, guides.GaussianGuide),
    "z alone": ({"attention": "none"}, guides.GaussianGuide),
    "z, before": ({"attn_order": "pre", "start": "encoder"}, guides.GaussianGuide),
    "vectors": ({"attention": "vectors"}, guides.VectorGuide),
    "vectors, N(0, I)": ({"attention": "vectors", "attention_prior": "normal", "latent_dim": 0}, guides.VectorGuide),
    "vectors, before": ({"attention": "vectors", "attn_order": "pre", "start": "encoder"}, guides.VectorGuide),
    "vectors, normalised": ({"attention": "vectors", "layer_norm": True}, guides.VectorGuide),
    "dirichlet": ({"attention": "weights"}, guides.DirichletGuide),
    "dirichlet, other guide": ({"attention": "weights"}, guides.LogisticNormalGuide),
    "logistic-normal": (
        {"attention": "weights", "attention_prior": "logistic-normal", "latent_dim": 0},
        guides.LogisticNormalGuide,
    ),
    "logistic-normal, other guide": (
        {"attention": "weights", "attention_prior": "logistic-normal"},
        guides.DirichletGuide,
    ),
    "weibull": ({"attention": "weights", "attention_prior": "gamma"}, guides.WeibullGuide),
    "blind": ({"attention": "vectors"}, guides.PriorGuide),
    "blind, weights": ({"attention": "weights"}, guides.PriorGuide),
}
"""Options of the model and the guide, by name."""

EXACT = {
    "nothing": {"attention": "none", "start": "encoder"},
    "deterministic": {"attention": "deterministic"},
    "summed over": {"attention": "exact"},
    "summed over, before": {"attention": "exact", "attn_order": "pre", "start": "encoder"},
}
"""Options of models without latents."""


def programs(options, guide, seed=0):
    """A model and its guide in float64, in evaluation mode, with parameters large enough to matter."""
    torch.manual_seed(seed)
    model = EncoderDecoder(VOCABULARY, **{**SIZES, **options}).double()
    own = guide(model).double()
    with torch.no_grad():
        for parameter in [*model.parameters(), *own.parameters()]:
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model.eval(), own.eval()


def exact(options):
    """A model without latents, and its guide."""
    return programs({"latent_dim": 0, **options}, guides.ExactGuide)


def pairs(steps=4, source_steps=5, rows=None, targets=TARGETS, sources=SOURCES):
    """The pairs as one batch, padded to these widths."""
    rows = len(targets) if rows is None else rows
    weights = torch.ones(len(targets), dtype=torch.float64)
    source = collate(sources, weights, source_steps, rows)
    return replace(collate(targets, weights, steps, rows), source=source)
