"""The guide of a model without latents: nothing is sampled, nothing is learned, and it fits its own family only."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine

from guides import GUIDES
from guides.deep_state_space import PriorGuide
from guides.language_model import ExactGuide
from ppl_text.core.errors import GuideMismatchError, UserError
from ppl_text.core.protocols import Guide
from ppl_text.core.vocabulary import Vocabulary
from ppl_text.data.batches import collate
from ppl_text.models.deep_state_space import DeepStateSpace
from ppl_text.models.language_model import LanguageModel
from ppl_text.objectives.sites import check_sites
from ppl_text.recipes import build
from ppl_text.recipes.config import load_config

BATCH = collate([[3, 4, 5], [], [5]], torch.ones(3), 5, 3)


def test_the_guide_samples_nothing_and_has_no_parameters() -> None:
    guide = ExactGuide(LanguageModel(Vocabulary(6)))
    assert isinstance(guide, Guide)
    assert guide.family == LanguageModel.family
    assert list(guide.parameters()) == []
    assert not [n for n, s in poutine.trace(guide).get_trace(BATCH).nodes.items() if s["type"] == "sample"]


def test_its_sites_are_said_to_be_none() -> None:
    model = LanguageModel(Vocabulary(6))
    assert check_sites(model, ExactGuide(model), BATCH) == "no latent site: every bound is ln p(tokens) itself"


def test_it_fits_no_model_with_latents_and_no_other_guide_fits_its_own() -> None:
    chain, flat = DeepStateSpace(Vocabulary(6), state_dim=2), LanguageModel(Vocabulary(6))
    with pytest.raises(GuideMismatchError, match="site 'h' is missing from the guide"):
        check_sites(chain, ExactGuide(chain), BATCH)
    with pytest.raises(GuideMismatchError, match="site 'h' is in the guide only"):
        check_sites(flat, PriorGuide(chain), BATCH)


@pytest.mark.parametrize(("recipe", "guide"), [("words", "exact"), ("words-gru8", "diagonal")])
def test_guides_of_other_families_are_refused_by_name(recipe: str, guide: str) -> None:
    family = load_config(recipe).model.family
    with pytest.raises(UserError, match=rf"unknown guide for {family} '{guide}'.*Other families: .*{guide}"):
        build.check_programs(load_config(recipe, {"guide.name": guide}))


def test_it_is_the_only_guide_of_its_family() -> None:
    assert list(GUIDES["language_model"]) == ["exact"]
    assert build.guide_registry("language_model").load("exact") is ExactGuide
