"""GGUF files, where the package that reads them is installed (extra ``judge``)."""

import numpy as np
import pytest
import torch
import transformers

from ppl_text.core.errors import UserError
from ppl_text.data.pretrained import pretrained_tokenizer, row_map
from ppl_text.data.pretrained_models import pretrained_settings, weights

SYMBOLS = ["<unk>", "<s>", "</s>", *"abcdefgh", "Ġ", "ab", "cd", "abcd"]
WIDTH, HEADS, KEY_HEADS, INNER, LAYERS = 16, 4, 2, 24, 2


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A Llama of random weights with a tokenizer of three merges, as llama.cpp would store it."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(SYMBOLS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(SYMBOLS)
    writer.add_token_types([3, 3, 3, *[1] * (len(SYMBOLS) - 3)])
    writer.add_token_merges(["a b", "c d", "ab cd"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    narrow = WIDTH * KEY_HEADS // HEADS
    shapes = {"token_embd": (len(SYMBOLS), WIDTH), "output_norm": (WIDTH,), "output": (len(SYMBOLS), WIDTH)}
    for block in range(LAYERS):
        shapes |= {
            f"blk.{block}.attn_norm": (WIDTH,),
            f"blk.{block}.attn_q": (WIDTH, WIDTH),
            f"blk.{block}.attn_k": (narrow, WIDTH),
            f"blk.{block}.attn_v": (narrow, WIDTH),
            f"blk.{block}.attn_output": (WIDTH, WIDTH),
            f"blk.{block}.ffn_norm": (WIDTH,),
            f"blk.{block}.ffn_gate": (INNER, WIDTH),
            f"blk.{block}.ffn_up": (INNER, WIDTH),
            f"blk.{block}.ffn_down": (WIDTH, INNER),
        }
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_weights_and_settings_make_the_model_that_transformers_opens(file):
    pytest.importorskip("accelerate")
    expected = transformers.AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32
    )
    found = pretrained_settings(file)
    tensors = weights(found)
    assert (found.layers, found.width, found.heads, found.inner) == (LAYERS, WIDTH, HEADS, INNER)
    assert (found.positions, found.vocabulary) == (32, len(SYMBOLS))
    assert transformers.LlamaConfig(**found.settings).num_key_value_heads == KEY_HEADS
    assert torch.equal(tensors.pop("lm_head.weight"), expected.lm_head.weight)
    state = expected.model.state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(tensors[name], value) for name, value in state.items())


def test_the_tokenizer_is_that_of_the_file(file):
    tokenizer = pretrained_tokenizer(str(file))
    own = transformers.AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    rows = row_map(file, tokenizer.vocabulary)
    for text in ("abcdab dc", "hg abcd", "a"):
        assert rows[tokenizer.encode([text])[0]].tolist() == own(text, add_special_tokens=False)["input_ids"]


def test_a_damaged_file_is_refused(file, tmp_path):
    (tmp_path / "x.gguf").write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match=r"x\.gguf are damaged"):
        pretrained_settings(tmp_path / "x.gguf")


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    import transformers.modeling_gguf_pytorch_utils as reading

    monkeypatch.setattr(reading, "is_gguf_available", lambda: False)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"needs the packages gguf and accelerate: pip install 'ppl-text\[judge\]'"):
        pretrained_settings(tmp_path / "x.gguf")


def test_a_file_of_another_architecture_is_refused(tmp_path, monkeypatch):
    """One that could be read from its folder: queries and keys may lie in another order in the file."""
    import transformers.modeling_gguf_pytorch_utils as reading

    monkeypatch.setattr(reading, "load_gguf_checkpoint", lambda _: {"config": {"model_type": "qwen2"}})
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"'qwen2'; GGUF files are read of llama and mistral alone: take its"):
        pretrained_settings(tmp_path / "x.gguf")
