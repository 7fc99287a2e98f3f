"""Transformers that begin with pretrained weights, by the real path: folders of tiny models, made on the fly."""

import shutil

import pytest
import torch
import transformers
from families.pretrained_folders import DECODERS, bart_folder, gpt2_folder

import ppl_text as pt
from guides.layerwise_transformer import LayerWiseGuide
from ppl_text.core.errors import UserError
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.pretrained import pretrained_tokenizer, row_map
from ppl_text.models.layerwise_transformer import LayerwiseTransformer

from .transformer_cases import as_batch, begun

TEXTS = ["the small dog runs", "a hill and the dog", "see the dog run up the hill", "down the small hill"] * 12

SHORT = {
    "data.buckets": 2,
    "data.batch_size": 8,
    "data.validation_sentences": 8,
    "model.latent_dim": 3,
    "training.steps": 2,
    "training.validate_every": 2,
    "training.log_every": 1,
    "report.particles": 2,
    "report.sentences": 6,
    "report.samples": 2,
}

architectures = pytest.mark.parametrize("architecture", DECODERS)


@pytest.fixture
def folder(tmp_path, architecture):
    return DECODERS[architecture](tmp_path / "pretrained")


@architectures
def test_the_next_token_is_the_pretrained_models(folder, architecture):
    """ln p(w_t | w_<t) of texts, up to what the project's outcomes leave out, from the stock model's own ids."""
    tokenizer = pretrained_tokenizer(str(folder))
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    rows = torch.as_tensor(row_map(folder))
    model = begun(folder, tokenizer.vocabulary, paradigm="none")
    ids = torch.tensor(tokenizer.encode(["the small dog runs up"]))
    states = model.backbone(model.backbone.embedding(ids))
    logits = stock(rows[ids]).logits
    outcomes = rows[tokenizer.vocabulary.ids.first_outcome :]
    known = outcomes >= 0
    found = (states @ model.output_weight.T)[..., known]
    torch.testing.assert_close(found, logits[..., outcomes[known]], rtol=1e-4, atol=1e-4)


@architectures
def test_a_latent_starts_as_nothing_in_a_pretrained_model(folder, architecture):
    vocabulary = pretrained_tokenizer(str(folder)).vocabulary
    plain, fused = begun(folder, vocabulary, paradigm="none"), begun(folder, vocabulary)
    x = plain.backbone.embedding(torch.tensor([[5, 6, 7]]))
    z = [torch.randn(1, 3) for _ in fused.sites]
    states = fused.backbone(x, fused.injection.to_layers(fused.by_layer(z)))
    torch.testing.assert_close(states, plain.backbone(x), rtol=1e-5, atol=1e-6)


@architectures
def test_an_encoder_of_the_guides_own_begins_there_too(folder, architecture):
    model = begun(folder, pretrained_tokenizer(str(folder)).vocabulary)
    guide = LayerWiseGuide(model, encoder="own")
    guide.load_pretrained()
    known = torch.as_tensor(row_map(folder)) >= 0
    for (name, one), (_, other) in zip(
        model.backbone.named_parameters(), guide.backbone.named_parameters(), strict=True
    ):
        assert torch.equal(one[known], other[known]) if one.shape[0] == len(known) else torch.equal(one, other), name
    LayerWiseGuide(model).load_pretrained()


@architectures
def test_a_run_begins_with_them_and_then_stands_alone(folder, architecture, tmp_path, one_thread):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"{text} {i}" for i, text in enumerate(TEXTS)), encoding="utf-8")
    changes = {**SHORT, "model.backbone": str(folder), "data.tokenizer": "pretrained", "data.pretrained": str(folder)}
    whole = {**changes, "data.vocabulary": None, "training.lr": 0.0}
    run = pt.fit("verses-della", data=texts, set=whole, out=tmp_path / "run")
    rows = torch.as_tensor(row_map(folder))
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder)
    table = run.programs.model.backbone.embedding.weight.cpu()
    assert torch.equal(table[rows >= 0], stock.get_input_embeddings().weight[rows[rows >= 0]])
    options = run.config.model.options
    assert (options["layers"], options["width"], options["architecture"]) == (2, 16, architecture)
    shutil.rmtree(folder)
    again = pt.load(run.folder)
    assert torch.equal(again.programs.model.backbone.embedding.weight, table)
    assert again.evaluate(particles=2).elbo < 0
    assert len(again.generate(2)) == 2
    assert again.swap_guide("independent", steps=1, out=tmp_path / "swapped").finished


@architectures
def test_outlying_entries_of_pretrained_states_do_not_reach_the_latents(folder, architecture):
    """An entry of 1,000 at every position, of which a norm leaves at most the root of the width."""
    vocabulary = pretrained_tokenizer(str(folder)).vocabulary

    def largest_mean(**options):
        model = begun(folder, vocabulary, **options)
        model.backbone.embedding.weight.data[:, 0] = 1000.0
        guide = LayerWiseGuide(model)
        read = guide.reading(as_batch([[5, 6, 7], [8, 9]]))
        return guide.conditional(0, read, None, None).base_dist.loc.abs().max()

    assert LayerwiseTransformer.settled({"backbone": str(folder)})["read_norm"] is True
    assert LayerwiseTransformer.settled({"backbone": str(folder), "read_norm": False})["read_norm"] is False
    assert largest_mean() < 1 < 5 < largest_mean(read_norm=False)


def test_of_a_backbone_without_such_a_norm_states_are_read_as_they_are(tmp_path):
    assert "read_norm" not in LayerwiseTransformer.settled({"backbone": str(bart_folder(tmp_path))})


@architectures
def test_low_rank_updates_of_a_pretrained_model(folder, architecture):
    model = begun(folder, pretrained_tokenizer(str(folder)).vocabulary, adapt="low-rank", adapt_rank=2)
    trained = [name for name, p in model.backbone.named_parameters() if p.requires_grad]
    assert len(trained) == 1 + 2 * len(model.backbone.updates)


@pytest.mark.parametrize("architecture", ["gpt2"])
def test_what_does_not_fit(folder, architecture, tmp_path):
    with pytest.raises(UserError, match=r"model\.layers=6 is not what backbone .* has \(layers=2, width=16"):
        LayerwiseTransformer.settled({"backbone": str(folder), "layers": 6})
    with pytest.raises(UserError, match=r"(?s)leave model\.backbone out"):
        LayerwiseTransformer.settled({"backbone": str(tmp_path / "gone")})
    with pytest.raises(UserError, match=r"is not that of the pretrained model in .*: it has 7 symbols, where"):
        begun(folder, Vocabulary(7))
    other = gpt2_folder(tmp_path / "wider", inner=40)
    settled = LayerwiseTransformer.settled({"backbone": str(folder)})
    wider = LayerwiseTransformer(pretrained_tokenizer(str(other)).vocabulary, **{**settled, "backbone": str(other)})
    with pytest.raises(UserError, match=r"has the shape .*leave sizes of the model out"):
        wider.load_pretrained()


def test_bart_begins_with_pretrained_weights(tmp_path):
    """Encoder and decoder: the stock model's states of a source and a text."""
    folder = bart_folder(tmp_path / "bart")
    own = pretrained_tokenizer(str(folder)).vocabulary
    model = begun(folder, Vocabulary(own.size, own.ids, own), paradigm="none")
    stock = transformers.AutoModel.from_pretrained(folder).eval()
    rows, tokens = torch.as_tensor(row_map(folder)), torch.tensor([[7, 8, 9, 10]])
    assert (rows[tokens] >= 0).all()
    wanted = stock(rows[tokens], decoder_input_ids=rows[tokens[:, :3]]).last_hidden_state
    embedded, counted = model.backbone.embedding(tokens), torch.ones(1, 4, dtype=torch.bool)
    source = model.backbone.source(embedded, model.backbone.read(embedded, counted), counted)
    torch.testing.assert_close(model.backbone(embedded[:, :3], source=source), wanted, rtol=1e-4, atol=1e-5)
