"""ROUGE by hand, and BERTScore against greedy matching of the model's own states."""

import sys

import pytest
import torch

from ppl_text.core.errors import DataError, UserError
from ppl_text.metrics.overlap import bert_score, rouge

from .pretrained_encoders import save_encoder, save_language_model


def test_rouge_by_hand():
    """Words 3 of 4 and 3 of 5; pairs 1 of 3 and 1 of 4; 'the sat' of 'the cat sat' in order, 'the … sat' with 'on'."""
    found = rouge(["The sat on cat"], ["the cat sat well, well"])
    assert found.rouge1 == pytest.approx(100 * 2 * 3 / (4 + 5))
    assert found.rouge2 == pytest.approx(0.0)
    assert found.rouge_l == pytest.approx(100 * 2 * 2 / (4 + 5))
    assert rouge(["a b c", "x"], ["a b d", "x"]) == pytest.approx(
        (100 * (2 / 3 + 1) / 2, 50 * 0.5, 100 * (2 / 3 + 1) / 2)
    )


def test_rouge_of_the_same_and_of_nothing():
    assert rouge(["a b", "c d e"], ["a b", "c d e"]) == (100.0, 100.0, 100.0)
    assert rouge([""], ["a b"]) == (0.0, 0.0, 0.0)
    with pytest.raises(DataError, match="ROUGE compares one text or more with as many references; got 1, 2"):
        rouge(["a"], ["a", "b"])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    return folder, *save_encoder(folder)


def by_hand(model, ids, text, reference):
    """Greedy matching of unit vectors, both ways; [CLS] and [SEP] are read and have no weight, but may be matched."""
    sides = []
    for words in (text, reference):
        own = [ids["[CLS]"], *(ids.get(word, ids["<unk>"]) for word in words.split()), ids["[SEP]"]]
        with torch.no_grad():
            sides.append(
                torch.nn.functional.normalize(model(input_ids=torch.tensor([own])).last_hidden_state[0], dim=-1)
            )
    alike = sides[0] @ sides[1].T
    precision, recall = alike[1:-1].amax(1).mean(), alike[:, 1:-1].amax(0).mean()
    return float(2 * precision * recall / (precision + recall))


def test_bert_score_is_greedy_matching_of_the_states(encoder):
    pytest.importorskip("bert_score")
    folder, model, ids = encoder
    texts = ["the dog sees bread", "no one", "the cat hears the sea", ""]
    references = ["the cat sees bread", "no one", "one dog", "the sea"]
    pairs = list(zip(texts, references, strict=True))[:3]
    expected = sum(by_hand(model, ids, *pair) for pair in pairs) / 4
    assert bert_score(texts, references, str(folder)) == pytest.approx(100 * expected, rel=1e-4)
    assert bert_score(texts[:3], texts[:3], str(folder)) == pytest.approx(100.0, rel=1e-4)
    assert bert_score([""], [""], str(folder)) == 0.0


def test_bert_score_reads_encoders_only(tmp_path):
    pytest.importorskip("bert_score")
    save_language_model(tmp_path)
    with pytest.raises(UserError, match=r"BERTScore with '.*': expected an encoder such as BERT or RoBERTa"):
        bert_score(["the dog"], ["the cat"], str(tmp_path))


def test_bert_score_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises(UserError, match=r"pip install 'ppl-text\[metrics\]'; or leave bertscore out"):
        bert_score(["a"], ["a"], "roberta-large")
    with pytest.raises(DataError, match="BERTScore compares one text or more"):
        bert_score([], [], "roberta-large")
