"""Judges of fluency: an open n-gram model that sums to one, and pretrained models against their own logits."""

import math

import numpy as np
import pytest
import torch

from ppl_text.core.errors import DataError, UserError
from ppl_text.metrics.fluency import NgramJudge, PretrainedJudge, fluency
from ppl_text.metrics.ngrams import EOS, Sentences, kneser_ney

SENTENCES = ["the dog sees the sea", "the cat sees bread", "the dog hears the cat", "no one hears", "<s> <UNK> the dog"]
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})


def conditional(model, context, symbol):
    """p(symbol | context), from whole texts: EOS ends one, of a word the rest is taken off."""
    gram = (*["<s> "] * (model.order - 1), *context, symbol)[-model.order :]
    return math.exp(model._log_score(tuple(gram)))


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("context", [(), ("the",), ("the", "dog"), ("sees", "no"), ("a", "king"), ("<UNK>", "the")])
def test_known_words_one_unknown_one_and_the_end_sum_to_one_in_every_context(order, context):
    model = kneser_ney(Sentences(SENTENCES), order, open_vocabulary=True)
    known = sum(conditional(model, context, word) for word in [*WORDS, EOS])
    unknown = conditional(model, context, "giraffe")
    assert known + unknown == pytest.approx(1.0, abs=1e-12)
    assert unknown == conditional(model, context, "zebra") > 0.0
    assert kneser_ney(Sentences(SENTENCES), order).log_prob(("giraffe",)) == -math.inf


def test_an_open_bigram_model_by_hand():
    """Sentences a b and b, D = 1/2; symbols a, b, EOS, continuations 1, 2, 1 of 4.

    Without a context p(b) = (2 - 1/2 + 1/2 · 3/4)/4 and p(c) = 1/2 · 3/4 / 4, c unknown.
    """
    model = kneser_ney(Sentences(["a b", "b"]), 2, discount=0.5, open_vocabulary=True)
    b, c = (1.5 + 0.375) / 4, 0.375 / 4
    assert conditional(model, (), "b") == pytest.approx(0.5 / 2 + 0.5 * 2 / 2 * b)
    assert conditional(model, ("a",), "b") == pytest.approx(0.5 / 1 + 0.5 * b)
    assert conditional(model, ("a",), "c") == pytest.approx(0.5 * c)
    assert conditional(model, ("c",), "c") == pytest.approx(c)


def test_the_n_gram_judge_divides_by_words_and_end():
    judge = NgramJudge(SENTENCES, order=2)
    model = kneser_ney(Sentences(SENTENCES), 2, open_vocabulary=True)
    found = judge(["the dog hears", "giraffe", ""])
    expected = [-model.log_prob(("the", "dog", "hears")) / 4, -model.log_prob(("giraffe",)) / 2, -model.log_prob(())]
    assert found.tolist() == pytest.approx(expected)
    assert found.argmin() == 0


def test_fluency_is_a_mean_over_texts_its_spread_and_its_exponential():
    found = fluency(np.array([1.0, 2.0, 6.0]))
    assert found == pytest.approx((3.0, math.sqrt((4 + 1 + 9) / 2), math.exp(3.0)))
    assert math.isnan(fluency(np.array([1.0])).deviation)
    with pytest.raises(DataError, match="no texts were given"):
        fluency(np.array([]))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a GPT-2 of random weights over words, and the model itself."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tiny")
    unknown = {"unk_token": "<unk>"}
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *WORDS])}, **unknown))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **unknown).save_pretrained(folder)
    config = transformers.GPT2Config(vocab_size=len(WORDS) + 1, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder, model, backend


def test_a_pretrained_judge_scores_each_token_but_the_first(tiny):
    folder, model, backend = tiny
    texts = ["the dog hears the sea", "no one", *["giraffe sees the"] * 10]
    found = PretrainedJudge(str(folder))(texts)
    for text, surprise in zip(texts, found.tolist(), strict=True):
        ids = backend.encode(text).ids
        with torch.no_grad():
            log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        expected = -sum(float(log_p[i, token]) for i, token in enumerate(ids[1:])) / (len(ids) - 1)
        assert surprise == pytest.approx(expected, rel=1e-4)
    assert len(set(found[:3].round(6))) == 3


def test_a_pretrained_judge_reads_no_pickled_weights_and_one_token_says_nothing(tiny, tmp_path):
    folder, model, _ = tiny
    with pytest.raises(DataError, match="text 'bread' has fewer than two tokens"):
        PretrainedJudge(str(folder))(["no one", "bread"])
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"judge '.*': expected a causal language model as a name on the"):
        PretrainedJudge(str(tmp_path))


def test_a_judge_in_a_gguf_file_says_what_to_install(tmp_path, monkeypatch):
    import transformers

    def without_gguf(*_, **__):
        raise ImportError("no gguf")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", without_gguf)
    with pytest.raises(UserError, match=r"pip install 'ppl-text\[judge\]'"):
        PretrainedJudge("tiny.gguf")


def test_a_judge_in_a_damaged_gguf_file_is_refused(tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"judge '.*tiny.gguf': expected a causal language model"):
        PretrainedJudge(str(tmp_path / "tiny.gguf"))
