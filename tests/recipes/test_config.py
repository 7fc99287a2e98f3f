"""The typed configuration: reading, changing, writing back."""

from types import SimpleNamespace

import pytest

from ppl_text.core.errors import ConfigError
from ppl_text.recipes import recipe_names
from ppl_text.recipes.config import as_schedule, as_schedules, load_config, recipe_tree
from ppl_text.recipes.errors import Errors, RecipeError, checked_options
from ppl_text.recipes.plain_yaml import parse_yaml
from ppl_text.recipes.start import resumed_config
from ppl_text.recipes.tree import parse_assignments


@pytest.mark.parametrize("name", recipe_names())
def test_a_configuration_is_written_and_read_back_whole(tmp_path, name):
    config = load_config(name, {"training.lr": 1e-05, "seed": 7, "model.hidden": [8], "data.limit": None})
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(str(path)) == config
    assert load_config(str(path)).to_yaml() == config.to_yaml()
    assert config.recipe == name


def test_changes_reach_their_place():
    config = load_config(
        "words",
        {"training.steps": 5, "guide.gru_dim": 3, "precision": 32, "training.beta": {"name": "constant", "value": 0.5}},
    )
    assert (config.training.steps, config.guide.options, config.precision) == (5, {"gru_dim": 3}, "32")
    assert as_schedule(config.training.beta, 5)(3) == 0.5


def test_beta_has_a_schedule_for_all_sites_or_one_for_each():
    rising = {"name": "linear", "start": 0.0, "end": 1.0, "steps": 4}
    both = as_schedules({"z": rising, "u": 0.5}, 10)
    assert {site: schedule(2) for site, schedule in both.items()} == {"z": 0.5, "u": 0.5}
    assert as_schedules(rising, 10)(1) == 0.25
    with pytest.raises(RecipeError, match=r"beta\.u must be 0 or more at every step; it reaches -1"):
        load_config("words", {"training.beta": {"z": rising, "u": -1.0}})
    with pytest.raises(RecipeError, match="a schedule needs a name"):
        load_config("words", {"training.lr": {"z": 1e-3}})
    with pytest.raises(RecipeError, match="unknown schedule 'linea'"):
        load_config("words", {"training.beta": {"z": {"name": "linea"}}})


def test_what_an_option_decides_is_not_kept_of_the_recipe():
    told = []
    tree = recipe_tree("verses-della", {"model.backbone": "gpt2", "model.heads": 6}, told=told)
    assert tree["model"].keys().isdisjoint({"layers", "width", "positions"})
    assert (tree["model"]["heads"], tree["model"]["latent_dim"]) == (6, 32)
    assert told == ["not kept of the recipe's model: layers=4, width=128, positions=128 (model.backbone decides that)"]


@pytest.mark.parametrize(
    "changes", [{"model.backbone": None}, {"model.latent_dim": 4}, {"model.family": "other.py:Gone"}]
)
def test_all_others_leave_the_recipes_sizes(changes):
    told = []
    kept = recipe_tree("verses-della", changes, told=told)["model"]
    assert ("layers" in kept) is ("model.family" not in changes)
    assert told == []


def test_another_part_drops_the_options_of_the_one_before():
    before = {"guide.gru_dim": 3, "data.limit": 9, "data.batch_size": 4}
    config = load_config("words", before)
    assert config.guide.options == {"gru_dim": 3}
    tree = recipe_tree("words", {"guide.name": "prior", "model.family": "other"})
    assert tree["guide"] == {"name": "prior"}
    assert tree["model"] == {"family": "other"}
    assert load_config("words", {**before, "data.corpus": "elsewhere"}).data.batch_size == 4


def test_the_recipe_file_itself_is_not_changed():
    load_config("words", {"model.hidden": [3]})
    assert load_config("words").model.options["hidden"] == [64, 64]


def test_warm_up_lasts_for_the_training_unless_said_otherwise():
    spec = {"name": "warmup", "value": 1.0, "warmup_steps": 10, "final": 0.0}
    assert as_schedule(spec, 110)(109) == pytest.approx(0.0, abs=1e-3)
    assert as_schedule(spec, 4)(3) == pytest.approx(0.4)
    assert as_schedule({**spec, "steps": 20}, 1000)(20) == 0.0


YAML = {
    "1e-3": 1e-3,
    "1E5": 1e5,
    "-2.5e+3": -2500.0,
    "1": 1,
    "1.0": 1.0,
    "abc": "abc",
    "1e": "1e",
    "[1, 2]": [1, 2],
    "": None,
}


@pytest.mark.parametrize(("text", "value"), YAML.items(), ids=YAML)
def test_numbers_are_read_as_users_write_them(text, value):
    found = parse_yaml(text, "here")
    assert found == value
    assert type(found) is type(value)


def test_yaml_cannot_run_code():
    with pytest.raises(ConfigError, match="is no tag of a plain value"):
        parse_yaml("!!python/object/apply:os.system ['true']", "here")


def test_assignments_are_dotted_keys_with_yaml_values():
    given = ["a.b=[1, x]", "c={d: 1e-2}", " e = text ", "f=a=b"]
    assert parse_assignments(given) == {"a.b": [1, "x"], "c": {"d": 0.01}, "e": "text", "f": "a=b"}


class Keywords:
    def __init__(self, model, *, units: int = 3, rate: float, names: tuple[str, ...] = (), on: bool = False):
        """Keyword-only options."""


class Positional:
    def __init__(self, model, units: int = 3, thing: "NoSuchName" = None, **others):  # noqa: F821
        """Options that may also be given by position, one annotation that means nothing, and any other name."""


def test_options_are_converted_to_what_the_annotations_want():
    given = {"units": 4.0, "rate": 1, "names": ["a"], "on": True}
    assert checked_options(Keywords, given, "guide") == {"units": 4, "rate": 1.0, "names": ("a",), "on": True}
    assert type(checked_options(Keywords, given, "guide")["units"]) is int


def test_a_users_guide_may_take_its_options_as_it_likes():
    assert checked_options(Positional, {"units": "x", "depth": 2}, "guide") == {"units": "x", "depth": 2}
    assert checked_options(lambda model, width: None, {"width": 2}, "guide") == {"width": 2}


def test_all_faults_of_options_are_told_at_once():
    with pytest.raises(RecipeError) as caught:
        checked_options(Keywords, {"units": True, "rat": 1, "names": [1], "model": 3}, "guide")
    assert caught.value.lines == [
        "'guide.units': expected a valid integer; got True",
        "unknown key 'guide.rat' (did you mean 'rate'?); known here: units, rate, names, on",
        "'guide.names.0': expected a valid string; got 1",
        "unknown key 'guide.model'; known here: units, rate, names, on",
        "'guide.rate' is missing",
    ]


def test_a_lone_error_stays_what_it_is():
    def fail(error):
        raise error

    errors = Errors()
    assert errors.attempt(lambda: 3) == 3
    errors.raise_any("x")
    alone = ConfigError("alone")
    assert errors.attempt(fail, alone) is None
    with pytest.raises(ConfigError) as caught:
        errors.raise_any("x")
    assert caught.value is alone
    errors.attempt(fail, RecipeError(["one", "two"]))
    with pytest.raises(RecipeError, match=r"x has errors:\n- alone\n- one\n- two"):
        errors.raise_any("x")


def test_a_bug_is_not_taken_for_a_fault():
    with pytest.raises(ZeroDivisionError):
        Errors().attempt(lambda: 1 // 0)


def test_a_resumed_run_may_hold_its_parameters_otherwise(tmp_path):
    config = load_config("verses-della", {"strategy": "fsdp"})
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert resumed_config(tmp_path, config, {}).strategy == "fsdp"
    assert resumed_config(tmp_path, config, {"strategy": "ddp"}) == config.model_copy(update={"strategy": "ddp"})
    with pytest.raises(RecipeError, match="strategy"):
        resumed_config(tmp_path, config, {"strategy": "dpp"})


def test_devices_are_found_or_refused(monkeypatch):
    from ppl_text.recipes import build

    made = []
    monkeypatch.setattr(build, "Fabric", lambda **options: made.append(options))
    for has_gpu, device, precision in [(True, "auto", "bf16"), (True, "cpu", "32"), (False, "auto", "32")]:
        monkeypatch.setattr("torch.cuda.is_available", lambda has_gpu=has_gpu: has_gpu)
        build.build_fabric(SimpleNamespace(device=device, precision=precision, capture=None))
    assert [(m["accelerator"], m["precision"]) for m in made] == [
        ("cuda", "bf16-mixed"), ("cpu", "32-true"), ("cpu", "32-true")
    ]  # fmt: skip
