"""Tiny pretrained models of random weights over a few words, in folders as ``transformers`` saves them."""

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

LIMIT = 32
"""Positions that the models have."""

UNKNOWN = {"unk_token": "<unk>"}

WORDS = ("the", "dog", "cat", "sees", "hears", "bread", "sea", "no", "one")
SPECIALS = ("[PAD]", "<unk>", "[CLS]", "[SEP]")


def save_encoder(folder):
    """A BERT of two layers, whose tokenizer puts [CLS] and [SEP] around a text."""
    ids = {word: i for i, word in enumerate((*SPECIALS, *WORDS))}
    backend = Tokenizer(models.WordLevel(ids, **UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIALS, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=LIMIT, **names).save_pretrained(
        folder
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(ids), max_position_embeddings=LIMIT, **sizes)
    return _saved(transformers.BertModel(config), folder), ids


def save_language_model(folder):
    """A GPT-2 of two layers."""
    ids = {word: i for i, word in enumerate(("<unk>", *WORDS))}
    backend = Tokenizer(models.WordLevel(ids, **UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **UNKNOWN).save_pretrained(folder)
    sizes = {"n_positions": LIMIT, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(vocab_size=len(ids), bos_token_id=0, eos_token_id=0, **sizes)
    return _saved(transformers.GPT2Model(config), folder), ids


def _saved(model, folder):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()
