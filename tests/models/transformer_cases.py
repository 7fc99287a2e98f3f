"""Small Transformers with latents, a batch for them, and every model and guide that fit together."""

import torch

from guides import layerwise_transformer as family
from ppl_text.core.batch import Batch
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.models.layerwise_transformer import LayerwiseTransformer
from ppl_text.nn.injections import INJECTIONS

SYMBOLS = 11
SIZES = {"layers": 3, "width": 16, "heads": 4, "positions": 24, "dropout": 0.0, "latent_dim": 3}
GUIDES = {
    "layer-wise": family.LayerWiseGuide,
    "independent": family.IndependentGuide,
    "single": family.SingleGuide,
    "prior": family.PriorGuide,
}
MODELS = {
    **{paradigm: {"paradigm": paradigm} for paradigm in INJECTIONS if paradigm != "none"},
    "one latent": {"one_latent": True},
    "separate": {"prior": "independent"},
    "learned first": {"prior1": "learned", "head": "untied", "fusion": "sum_prod", "fusion_start": "normal"},
    "sum": {"fusion": "sum", "fusion_start": "normal"},
    "middle layer": {"first_layer": 2, "last_layer": 2},
    "flows": {"prior_flows": 2, "prior_hidden": 6},
    "bart": {"architecture": "bart"},
    "llama": {"architecture": "llama", "settings": {"num_key_value_heads": 2, "intermediate_size": 24}},
}
"""Options of models with latents, by name."""


def made(name="value", *, paired=False, **options):
    """A model in float64 whose weights are large enough for every latent to matter."""
    source = Vocabulary(SYMBOLS) if paired else None
    given = {**SIZES, **MODELS.get(name, {"paradigm": name}), **options}
    model = LayerwiseTransformer(Vocabulary(SYMBOLS, source=source), **given).double().eval()
    with torch.no_grad():
        for part in (model.injection, model.chain, model.flows):
            for parameter in part.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def guided(model, name="layer-wise", **options):
    """A guide in float64 whose draws depend on the text."""
    guide = GUIDES[name](model, **options).double().eval()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return guide


TEXTS = ([5, 6, 7, 8, 2], [4, 9, 2], [10, 3, 3, 2])
SOURCES = ([6, 6, 2], [3, 4, 5, 9, 2], [2])


def as_batch(texts, width=None):
    lengths = torch.tensor([len(text) for text in texts])
    tokens = torch.zeros(len(texts), width or int(lengths.max()), dtype=torch.long)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
    inputs = torch.cat([torch.ones(len(texts), 1, dtype=torch.long), tokens[:, :-1]], 1)
    return Batch(tokens, lengths, torch.ones(len(texts), dtype=torch.float64), inputs)


def batch(*, paired=False, rows=slice(None), width=None, source_width=None):
    """Some of the texts, with their sources where wanted, as wide as asked for."""
    whole = as_batch(TEXTS[rows], width)
    source = as_batch(SOURCES[rows], source_width) if paired else None
    return Batch(whole.tokens, whole.lengths, whole.weights, whole.decoder_inputs, source)


def begun(folder, vocabulary, **options):
    """A model with the weights of a pretrained folder or file."""
    settled = LayerwiseTransformer.settled({"backbone": str(folder), "latent_dim": 3, **options})
    model = LayerwiseTransformer(vocabulary, **settled)
    model.load_pretrained()
    return model.eval()
