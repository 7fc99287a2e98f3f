import json

import pytest
import torch
import transformers
from families.pretrained_folders import FOLDERS, SIZES, llama_folder

from ppl_text.core.errors import UserError
from ppl_text.data.pretrained import pretrained_tokenizer, row_map
from ppl_text.data.pretrained_models import embedding_rows, pretrained_settings, weights

MODELS = {
    "gpt2": (transformers.GPT2Config, transformers.GPT2Model),
    "llama": (transformers.LlamaConfig, transformers.LlamaModel),
    "bart": (transformers.BartConfig, transformers.BartModel),
}


@pytest.mark.parametrize("architecture", FOLDERS)
def test_settings_are_those_that_the_model_was_made_with(architecture, tmp_path):
    found = pretrained_settings(FOLDERS[architecture](tmp_path))
    assert (found.architecture, found.folder) == (architecture, tmp_path)
    assert {name: getattr(found, name) for name in SIZES} == SIZES
    assert json.loads(json.dumps(found.settings)) == found.settings
    config = MODELS[architecture][0]
    made = config(**found.settings).to_dict()
    expected = config.from_pretrained(tmp_path).to_dict()
    assert {key: made[key] for key in found.settings} == {key: expected[key] for key in found.settings}
    assert made["vocab_size"] == found.vocabulary


@pytest.mark.parametrize("architecture", FOLDERS)
@pytest.mark.parametrize("shard", ["50GB", "4KB"])
def test_weights_make_the_model_that_transformers_opens(architecture, shard, tmp_path):
    folder = FOLDERS[architecture](tmp_path / "one")
    config, kind = MODELS[architecture]
    expected = kind.from_pretrained(folder)
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    for path in folder.glob("*.json"):
        (sharded / path.name).write_bytes(path.read_bytes())
    expected.save_pretrained(sharded, max_shard_size=shard)
    assert (sharded / "model.safetensors").is_file() == (shard == "50GB")
    for place in (folder, sharded):
        settings = pretrained_settings(place)
        tensors = weights(settings)
        assert tensors[settings.embedding].shape == (settings.vocabulary, settings.width)
        made = kind(config(**settings.settings))
        named = {name: value for name, value in tensors.items() if not name.startswith(("lm_head", "final_logits"))}
        missing, unexpected = made.load_state_dict(named, strict=False)
        assert not unexpected
        assert {name.split(".")[1] for name in missing} <= {"embed_tokens"}, "tied ones alone"
        made.tie_weights()
        for name, value in expected.state_dict().items():
            assert torch.equal(made.state_dict()[name], value), name


def test_names_and_buffers_of_older_versions_are_read(tmp_path):
    from safetensors.torch import save_file

    folder = FOLDERS["gpt2"](tmp_path)
    tensors = weights(pretrained_settings(folder))
    save_file({**tensors, "h.0.attn.bias": torch.ones(1, 1, 4, 4)}, folder / "model.safetensors")
    again = weights(pretrained_settings(folder))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], value) for name, value in tensors.items())


def edited(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def sharded(folder, weight_map):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"x")


BAD = {
    "another architecture": (
        lambda f: edited(f, model_type="mamba"),
        "is of the architecture 'mamba'; supported: gpt2, llama, mistral, qwen2, qwen3, bart",
    ),
    "no architecture": (lambda f: edited(f, model_type=None), "is of the architecture None; supported"),
    "no layers": (
        lambda f: edited(f, n_layer=None),
        "expected whole numbers from 1 on in config.json; got n_layer",
    ),
    "width no number": (lambda f: edited(f, n_embd="16"), "got n_embd '16'"),
    "config of another model": (
        lambda f: edited(f, n_embd=32),
        "expected an embedding wte.weight of shape (320, 32), as config.json has it; got (320, 16). Are weights and",
    ),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read: "),
    "config no object": (
        lambda f: (f / "config.json").write_text("[]"),
        "config.json cannot be read: it holds no JSON object",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "holds no weights; expected model.safetensors or model.safetensors.index.json: get the files where there is a",
    ),
    "a pickle": (pickled, "holds its weights as a pickle (pytorch_model.bin), which could run code and is not read"),
    "truncated": (truncated, "model.safetensors are damaged: "),
    "no safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"x"), "model.safetensors are damaged: "),
    "a shard missing": (
        lambda f: sharded(f, {"wte.weight": "model-1.safetensors"}),
        "lacks model-1.safetensors of model.safetensors.index.json; download it again",
    ),
    "a shard elsewhere": (
        lambda f: sharded(f, {"wte.weight": "../x.safetensors"}),
        "expected a weight_map of tensors to files beside it",
    ),
    "no shards": (lambda f: sharded(f, None), "expected a weight_map of tensors to files beside it"),
}


@pytest.mark.parametrize(("spoil", "says"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_refused(spoil, says, tmp_path):
    folder = FOLDERS["gpt2"](tmp_path)
    spoil(folder)
    with pytest.raises(UserError) as raised:
        pretrained_settings(folder)
    assert says in str(raised.value)
    assert str(folder) in str(raised.value)


def test_inner_width_that_gpt2_leaves_out_is_four_times_its_width(tmp_path):
    folder = FOLDERS["gpt2"](tmp_path, inner=64)
    edited(folder, n_inner=None)
    assert pretrained_settings(folder).inner == 64


def test_a_padding_that_was_added_to_the_tokenizer_alone_has_no_row(tmp_path):
    folder = llama_folder(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<gap>"})
    tokenizer.save_pretrained(folder)
    vocabulary, found = pretrained_tokenizer(str(folder)).vocabulary, pretrained_settings(folder)
    rows, named = embedding_rows(found, vocabulary), row_map(folder).tolist()
    assert (rows[vocabulary.ids.pad], named[vocabulary.ids.pad]) == (-1, found.vocabulary)
    assert rows[1:] == named[1:]
    assert sorted(rows[1:]) == list(range(found.vocabulary))


def test_ordinary_symbols_beyond_the_embedding_are_refused(tmp_path):
    folder = llama_folder(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"its tokenizer has 2 symbols beyond the \d+ rows of its embedding; are they"):
        embedding_rows(pretrained_settings(folder), pretrained_tokenizer(str(folder)).vocabulary)


@pytest.mark.parametrize(
    ("said", "positions"), [({}, 7), ({"use_sliding_window": False}, 48), ({"sliding_window": None}, 48)]
)
def test_no_text_is_longer_than_a_window_of_attention(tmp_path, said, positions):
    path = llama_folder(tmp_path, kind="mistral") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sliding_window": 7} | said))
    assert pretrained_settings(tmp_path).positions == positions
