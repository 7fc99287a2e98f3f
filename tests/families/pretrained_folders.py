"""Tiny pretrained folders, made on the spot as ``transformers`` saves them: GPT-2, Llama and BART of random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXTS = (
    "the dog hears the sea , and the sea hears no one",
    "no one hears the giraffe : it's in the field of 1,234 flowers",
    "in the beginning was the naïve café — and 日本 was not far",
    "a dog and a giraffe were in the café by the sea",
)
"""What the tokenizers are trained on."""

SIZES = {"layers": 2, "width": 16, "heads": 2, "positions": 48, "inner": 32}
"""Sizes of the models, unless told otherwise."""


def gpt2_folder(folder: Path, *, texts: tuple[str, ...] = TEXTS, vocabulary: int = 320, **sizes: Any) -> Path:
    """Save a GPT-2 with a tokenizer of bytes, whose only special token is ``<|endoftext|>``, the last one."""
    vocab, merges = _merges(texts, vocabulary - 1, byte_level=True)
    vocab["<|endoftext|>"] = end = len(vocab)
    transformers.GPT2TokenizerFast(vocab=vocab, merges=merges).save_pretrained(folder)
    size = SIZES | sizes
    config = transformers.GPT2Config(
        vocab_size=len(vocab),
        n_layer=size["layers"],
        n_embd=size["width"],
        n_head=size["heads"],
        n_positions=size["positions"],
        n_inner=size["inner"],
        bos_token_id=end,
        eos_token_id=end,
    )
    return _saved(transformers.GPT2LMHeadModel, config, folder)


def llama_folder(
    folder: Path, *, texts: tuple[str, ...] = TEXTS, vocabulary: int = 400, kind: str = "llama", **sizes: Any
) -> Path:
    """Save a Llama with a tokenizer of characters that falls back to bytes, ``<unk>``, ``<s>`` and ``</s>`` first.

    ``kind``: another architecture of its form; Qwen's have a tokenizer of bytes, ``<|endoftext|>`` last.
    """
    if kind.startswith("qwen"):
        vocab, merges = _merges(texts, vocabulary - 1, byte_level=True)
        vocab["<|endoftext|>"] = len(vocab)
        transformers.Qwen2TokenizerFast(vocab=vocab, merges=merges).save_pretrained(folder)
    else:
        first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        learned, merges = _merges(texts, vocabulary - len(first), byte_level=False)
        vocab = {symbol: i for i, symbol in enumerate([*first, *learned])}
        transformers.LlamaTokenizerFast(vocab=vocab, merges=merges).save_pretrained(folder)
    size = SIZES | sizes
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=len(vocab),
        num_hidden_layers=size["layers"],
        hidden_size=size["width"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size.get("key_value_heads", 1),
        max_position_embeddings=size["positions"],
        intermediate_size=size["inner"],
    )
    return _saved(transformers.AutoModelForCausalLM.from_config, config, folder)


def bart_folder(folder: Path, *, texts: tuple[str, ...] = TEXTS, vocabulary: int = 320, **sizes: Any) -> Path:
    """Save a BART with a tokenizer of bytes, ``<s>``, ``<pad>``, ``</s>`` and ``<unk>`` first, ``<mask>`` last."""
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    learned, merges = _merges(texts, vocabulary - len(first) - 1, byte_level=True)
    vocab = {symbol: i for i, symbol in enumerate([*first, *learned, "<mask>"])}
    transformers.BartTokenizerFast(vocab=vocab, merges=merges).save_pretrained(folder)
    size = SIZES | sizes
    config = transformers.BartConfig(
        vocab_size=len(vocab),
        d_model=size["width"],
        encoder_layers=size["layers"],
        decoder_layers=size["layers"],
        encoder_attention_heads=size["heads"],
        decoder_attention_heads=size["heads"],
        encoder_ffn_dim=size["inner"],
        decoder_ffn_dim=size["inner"],
        max_position_embeddings=size["positions"],
    )
    return _saved(transformers.BartForConditionalGeneration, config, folder)


FOLDERS = {"gpt2": gpt2_folder, "llama": llama_folder, "bart": bart_folder}
"""What saves a folder, by architecture."""

DECODERS = {
    "gpt2": gpt2_folder,
    **{kind: partial(llama_folder, kind=kind) for kind in ("llama", "mistral", "qwen2", "qwen3")},
}
"""The same of decoders alone."""


def _merges(texts: tuple[str, ...], symbols: int, *, byte_level: bool) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the symbols and the merges of byte pairs trained on some texts."""
    learner = Tokenizer(models.BPE())
    alphabet: list[str] = []
    if byte_level:
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        learner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=symbols, initial_alphabet=alphabet, show_progress=False)
    # One text at a time is one thread's work: the library warns at later forks where several have worked.
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    return learned["vocab"], [tuple(pair) for pair in learned["merges"]]


def _saved(kind: Callable[[Any], Any], config: Any, folder: Path) -> Path:
    """Save a model of random weights, the same at every call; a normalisation has some that are not 0 and 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder
