"""Code of a user's: a run keeps it, and whoever opens the run has to consent before any of it runs."""

import hashlib
import importlib
import json
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest
from pyro.infer import Trace_ELBO

import ppl_text as pt
from ppl_text.core.errors import Interrupted, RunFolderError, TrustError, UserError
from ppl_text.objectives import build
from ppl_text.recipes import trust
from ppl_text.training.progress import Quiet

from .own_code import TEXT, write_code

pytestmark = pytest.mark.usefixtures("one_thread")

PARTS = {"model": "Story", "guide": "Mine", "objective": "bound"}


def given(path):
    return {kind: f"{path}:{name}" for kind, name in PARTS.items()}


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A run of a stranger's with a model, a guide and an objective of its own; its file is gone, its folder moved."""
    home = tmp_path_factory.mktemp("stranger")
    path, ran = write_code(home)
    changes = {k: v for k, v in tiny.items() if not k.startswith("guide.")}
    run = pt.fit(set=changes, **given(path), out=home / "run")
    assert ran.is_file()
    here = shutil.move(run.folder, tmp_path_factory.mktemp("here") / "run")
    path.unlink()
    ran.unlink()
    return SimpleNamespace(folder=here, path=path, ran=ran, run=run, changes=changes)


@pytest.fixture
def moved(made, tmp_path):
    """A copy of the run's folder, on a machine on which the code has not run."""
    yield SimpleNamespace(folder=shutil.copytree(made.folder, tmp_path / "copy"), path=made.path, ran=made.ran)
    made.ran.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def anew():
    """Every test is a process of its own to the user's code."""
    yield
    for name in [name for name in sys.modules if name.startswith("ppl_text_user_")]:
        del sys.modules[name]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_keeps_one_copy_of_a_file_and_a_record_of_what_is_in_it(made):
    record = json.loads((made.folder / "code.json").read_text(encoding="utf-8"))
    same = {"file": "code/mine.py", "origin": str(made.path), "sha256": digest(made.folder / "code/mine.py")}
    assert record == dict.fromkeys([f"{made.path}:{name}" for name in PARTS.values()], same)
    assert [path.name for path in (made.folder / "code").iterdir()] == ["mine.py"]
    assert (made.folder / "code/mine.py").read_text(encoding="utf-8") == TEXT.format(ran=str(made.ran))
    assert made.run.config.objective == f"{made.path}:bound"


def test_a_run_without_code_of_its_own_keeps_none_and_needs_no_consent(trained):
    assert not (trained.folder / "code.json").exists()
    assert not (trained.folder / "code").exists()
    assert pt.load(trained.folder).generate(1)


READING = {
    "evaluate": ["evaluate", "{run}", "--particles", "2", "--limit", "8"],
    "generate": ["generate", "{run}", "-n", "2"],
    "compare": ["compare", "{run}", "--objectives", "elbo", "--draws", "4", "--sentences", "8", "--repeats", "2"],
    "swap": ["swap", "{run}", "--guide", "prior", "--steps", "2"],
    "explain": ["explain", "{run}/config.yaml"],
    "fit": ["fit", "{run}/config.yaml", "--out", "{run}-again"],
    "resume": ["fit", "--resume", "{run}", "--steps", "22"],
}


@pytest.mark.parametrize("words", READING.values(), ids=READING)
def test_a_command_runs_nothing_of_a_strangers_folder_without_consent(moved, ppl, words):
    words = [word.format(run=moved.folder) for word in words]
    before = sorted(path for path in moved.folder.rglob("*") if path.name != "__pycache__")
    refused = ppl(*words)
    assert refused.status == 2
    assert not moved.ran.exists()
    assert sorted(moved.folder.rglob("*")) == before
    kept = moved.folder / "code/mine.py"
    for text in (str(kept), str(moved.path), digest(kept), "--trust", "trust=True", "guide Mine", "FILE.py:NAME"):
        assert text in refused.err, text
    done = ppl(*words, "--trust")
    assert done.status == 0, done.err
    assert moved.ran.exists()


def test_python_runs_nothing_without_consent(moved):
    with pytest.raises(TrustError, match=r"needs code of its own(.|\n)*trust=True"):
        pt.load(moved.folder)
    for way in ({"resume": moved.folder, "steps": 22}, {"recipe": str(moved.folder / "config.yaml")}):
        with pytest.raises(TrustError, match="needs code of its own"):
            pt.fit(**way)
    assert not moved.ran.exists()
    assert type(pt.load(moved.folder, trust=True).guide).__name__ == "Mine"
    assert moved.ran.exists()


def test_a_moved_run_answers_as_it_did(made, moved):
    made.run.folder = made.folder
    asked = {"particles": 4, "limit": 20}
    assert pt.load(moved.folder, trust=True).evaluate(**asked) == made.run.evaluate(**asked)


def test_a_run_that_was_just_trained_needs_no_second_consent(moved, tmp_path, made):
    path, _ = write_code(tmp_path / "home")
    run = pt.fit(set=made.changes, **given(path), out=tmp_path / "run")
    path.unlink()
    assert run.generate(1)
    child = run.swap_guide("prior", steps=2)
    assert child.parent.guide is run.guide
    assert json.loads((child.folder / "code.json").read_text()).keys() == {f"{path}:Story", f"{path}:bound"}


class StopsAtOnce(Quiet):
    def step(self, record):
        signal.raise_signal(signal.SIGINT)


def test_a_stopped_run_says_that_its_code_needs_consent(made, tmp_path, ppl):
    path, _ = write_code(tmp_path)
    with pytest.raises(Interrupted) as caught:
        pt.fit(set=made.changes, **given(path), out=tmp_path / "run", progress=StopsAtOnce())
    advice = str(caught.value).partition("Go on with: python -m ppl_text ")[2]
    assert advice == f"fit --resume {tmp_path / 'run'} --trust"
    assert ppl(*advice.split()).status == 0


def test_consent_covers_the_parents(moved, tmp_path):
    child = pt.load(moved.folder, trust=True).swap_guide("prior", steps=2)
    moved.ran.unlink()
    sys.modules.pop(type(child.parent.guide).__module__, None)
    assert type(pt.load(child.folder, trust=True).parent.guide).__name__ == "Mine"
    assert moved.ran.exists()


def test_naming_a_file_consents_to_all_that_a_run_has_from_it_and_to_no_other_file(moved, tmp_path):
    other, ran = write_code(tmp_path / "other", "other.py")
    parent = pt.load(moved.folder, trust=True).swap_guide(f"{other}:Other", steps=2, out=tmp_path / "parent")
    child = parent.swap_guide("prior", steps=2, out=tmp_path / "child")
    ran.unlink()
    mine = shutil.copy(moved.folder / "code/mine.py", tmp_path / "elsewhere.py")
    with pytest.raises(TrustError, match="guide Other") as caught:
        pt.load(parent.folder, objective=f"{mine}:bound")
    assert "model Story" not in str(caught.value)
    opened = pt.load(child.folder, objective=f"{mine}:bound")
    assert type(opened.model).__name__ == "Story"
    with pytest.raises(TrustError, match="guide Other"):
        _ = opened.parent
    assert pt.fit(resume=child.folder, steps=4, model=f"{mine}:Story").finished
    assert "Not measured" in (child.folder / "report.md").read_text(encoding="utf-8")


def test_swap_and_compare_take_the_file_of_the_run_for_consent(moved, tmp_path, ppl):
    mine = shutil.copy(moved.folder / "code/mine.py", tmp_path / "elsewhere.py")
    swapped = ppl("swap", moved.folder, "--guide", f"{mine}:Other", "--steps", "2", "--out", tmp_path / "child")
    assert swapped.status == 0, swapped.err
    few = ["--draws", "4", "--sentences", "8", "--repeats", "2", "--steps", "2", "--objectives", "elbo"]
    compared = ppl("compare", moved.folder, "--guides", f"{mine}:Other", *few)
    assert compared.status == 0, compared.err
    advised = [line for line in swapped.out.splitlines() if line.startswith("  python -m ppl_text")]
    assert len(advised) == 3
    assert all(line.endswith(" --trust") for line in advised)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_changed_copy_is_refused_with_both_hashes(moved, trusted):
    kept = moved.folder / "code/mine.py"
    before = digest(kept)
    kept.write_text(kept.read_text() + "\nx = 1\n")
    with pytest.raises(RunFolderError) as caught:
        pt.load(moved.folder, trust=trusted)
    assert before in str(caught.value)
    assert not trusted or digest(kept) in str(caught.value)
    assert not moved.ran.exists()


def test_byte_code_beside_the_copy_is_not_what_runs(moved):
    """It would run though its text is what was recorded."""
    import py_compile

    kept = moved.folder / "code/mine.py"
    text, stamp = kept.read_bytes(), kept.stat()
    evil = text.replace(str(moved.ran).encode(), str(moved.ran).replace("-has-run", "-is-bad").encode())
    kept.write_bytes(evil)
    py_compile.compile(str(kept), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    kept.write_bytes(text)
    assert pt.load(moved.folder, trust=True).generate(1)
    assert stamp.st_size == kept.stat().st_size
    assert moved.ran.exists()
    assert not moved.ran.with_name("mine.py-is-bad").exists()


def test_a_lost_copy_and_a_damaged_record_are_told(moved):
    (moved.folder / "code/mine.py").unlink()
    with pytest.raises(RunFolderError, match=r"mine\.py cannot be read"):
        pt.load(moved.folder, trust=True)
    (moved.folder / "code.json").write_text('{"a": 1}')
    with pytest.raises(RunFolderError, match="no record of a run's code"):
        pt.load(moved.folder, trust=True)


def test_an_old_run_keeps_no_copy_and_its_file_is_run_where_it_is(moved):
    shutil.rmtree(moved.folder / "code")
    (moved.folder / "code.json").unlink()
    with pytest.raises(TrustError, match=r"mine\.py \(the run keeps no copy of it\)"):
        pt.load(moved.folder)
    with pytest.raises(UserError, match=r"keeps no copy of its code, and .* does not exist(.|\n)*put the file back"):
        pt.load(moved.folder, trust=True)
    moved.path.write_text(TEXT.format(ran=str(moved.ran)))
    try:
        assert pt.load(moved.folder, trust=True).generate(1)
        assert moved.ran.exists()
    finally:
        moved.path.unlink()


def test_resume_runs_the_named_file_where_its_text_is_kept_and_no_other(moved, tmp_path):
    other, ran = write_code(tmp_path, "other.py")
    with pytest.raises(TrustError, match="guide Mine"):
        pt.fit(resume=moved.folder, steps=22, **given(other))
    assert not ran.exists()
    assert not moved.ran.exists()
    named = shutil.copy(moved.folder / "code/mine.py", tmp_path / "elsewhere.py")
    assert pt.fit(resume=moved.folder, steps=22, **given(named)).finished
    assert moved.ran.exists()
    with pytest.raises(UserError, match=r"guide\.name cannot change"):
        pt.fit(resume=moved.folder, steps=24, guide=f"{named}:Other")


def test_resume_refuses_a_named_file_that_has_changed_since(made, tmp_path):
    path, _ = write_code(tmp_path)
    run = pt.fit(set=made.changes, **given(path), out=tmp_path / "run")
    kept = digest(path)
    path.write_text(path.read_text() + "\nx = 1\n")
    with pytest.raises(UserError) as caught:
        pt.fit(resume=run.folder, steps=22, **given(path))
    for text in (kept, digest(path), "has changed since", "--trust"):
        assert text in str(caught.value)
    assert pt.fit(resume=run.folder, steps=22, trust=True).finished


def test_a_new_run_of_a_runs_configuration_takes_the_file_that_is_named(made, tmp_path):
    path, _ = write_code(tmp_path)
    run = pt.fit(set=made.changes, **given(path), out=tmp_path / "run")
    path.write_text(path.read_text() + "\nx = 1\n")
    again = pt.fit(str(run.folder / "config.yaml"), **given(path), out=tmp_path / "again")
    record = json.loads((again.folder / "code.json").read_text())
    assert {entry["sha256"] for entry in record.values()} == {digest(path)}


def test_a_recipe_of_the_users_may_name_its_files(made, tmp_path, ppl, monkeypatch):
    path, ran = write_code(tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "own.yaml"
    sizes = {"state_dim": 2, "hidden": [8]}
    tree = {"extends": "words", "model": {"family": f"{path.name}:Story", **sizes}, "guide": {"name": "mine.py:Mine"}}
    recipe.write_text(json.dumps({**tree, "objective": "mine.py:Bound"}))
    explained = ppl("explain", recipe, "--data", made.changes["data.corpus"], "--set", "guide.gru_dim=8")
    assert explained.status == 0, explained.err
    assert "q of mine" in explained.out
    assert ran.exists()


def test_a_changed_guide_is_refitted_for_a_comparison(moved, tmp_path):
    path, _ = write_code(tmp_path)
    run = pt.load(moved.folder, trust=True)
    options = {"objectives": ["elbo"], "draws": 4, "sentences": 8, "repeats": 2, "steps": 2}
    run.compare([f"{path}:Other"], **options)
    run.compare([f"{path}:Other"], **options)
    assert len(list((moved.folder / "swaps").iterdir())) == 1
    path.write_text(path.read_text() + "\nx = 1\n")
    run.compare([f"{path}:Other"], **options)
    assert len(list((moved.folder / "swaps").iterdir())) == 2


def cell(source, name="__main__"):
    """What a notebook's cell defines: classes whose module has no file."""
    space = {"__name__": name}
    exec(source, space)  # noqa: S102 - as a notebook does
    return SimpleNamespace(**{key: value for key, value in space.items() if not key.startswith("__")})


def test_classes_of_a_notebook_are_passed_live_and_passed_again(made, tmp_path, ppl):
    live = cell(TEXT.format(ran=str(tmp_path / "ran")))
    own = {"model": live.Story, "guide": live.Mine, "objective": live.bound}
    run = pt.fit(set=made.changes, **own, out=tmp_path / "run")
    config = run.config
    names = (config.model.family, config.guide.name, config.objective)
    assert names == ("live:Story", "live:Mine", "live:Bound")
    assert run.finished
    for given, asked in (
        ({}, "model=Story, guide=Mine, objective=Bound"),
        ({"trust": True}, "model=Story, guide=Mine, objective=Bound"),
        ({"guide": live.Mine}, "model=Story, objective=Bound"),
    ):
        with pytest.raises(TrustError, match=rf"passed in Python .*; pass it again: ppl_text\.load\('.*', {asked}\)\."):
            pt.load(run.folder, **given)
    assert ppl("evaluate", run.folder, "--trust").status == 2
    again = pt.load(run.folder, **own)
    assert type(again.guide) is live.Mine
    assert again.generate(2) == run.generate(2)
    assert pt.fit(resume=run.folder, steps=22, **own).finished
    child = again.swap_guide(live.Other, steps=2)
    assert child.config.guide.name == "live:Other"
    assert child.folder.name == "Other-1"
    compared = again.compare([live.Mine, live.Other], [live.bound, "elbo"], draws=4, sentences=8, repeats=2, steps=2)
    assert len(compared.rows) == 4


def test_what_is_missing_is_named_whether_it_was_passed_or_lies_in_a_file(moved, tmp_path):
    other = cell(TEXT.format(ran=str(tmp_path / "ran"))).Other
    child = pt.load(moved.folder, trust=True).swap_guide(other, steps=2)
    with pytest.raises(TrustError) as caught:
        pt.load(child.folder)
    for text in (f"load({str(child.folder)!r}, guide=Other)", "- model Story: ", "- objective bound: ", "add --trust"):
        assert text in str(caught.value)
    assert type(pt.load(child.folder, guide=other, trust=True).guide) is other


def test_the_objective_that_a_run_was_given_as_an_object_can_be_passed_again(made, tmp_path):
    for number, given in enumerate((Trace_ELBO(), build("iwae:2"))):
        run = pt.fit(set={**made.changes, "model.hidden": [8]}, objective=given, out=tmp_path / str(number))
        assert pt.load(run.folder, objective=given).config == run.config
        with pytest.raises(UserError, match=r"iwae:3 is no code that .* needs"):
            pt.load(run.folder, objective=build("iwae:3"))


def test_the_text_of_a_live_class_is_kept_for_reading(made, tmp_path):
    """As Jupyter leaves it: the cell is in linecache under the name that its code has."""
    import linecache

    text, name = TEXT.format(ran=str(tmp_path / "ran")), f"<cell of {tmp_path.name}>"
    text = text.replace('"""q of mine."""', '"""q of mine."""\n\n    def hello(self):\n        return 1')
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), space)  # noqa: S102 - as a notebook does
    run = pt.fit(set={**made.changes, "model.hidden": [8]}, guide=space["Mine"], out=tmp_path / "run")
    record = json.loads((run.folder / "code.json").read_text())["live:Mine"]
    assert record == {"file": "code/Mine.py", "origin": name, "sha256": digest(run.folder / "code/Mine.py")}
    assert (run.folder / "code/Mine.py").read_text() == text
    with pytest.raises(TrustError, match=r"its text, for reading: .*code/Mine\.py"):
        pt.load(run.folder, trust=True)


def test_a_class_of_an_imported_file_is_that_file(made, tmp_path, monkeypatch):
    path, _ = write_code(tmp_path, "imported_guides.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("imported_guides")
    monkeypatch.setitem(sys.modules, "imported_guides", module)
    run = pt.fit(set=made.changes, guide=module.Mine, out=tmp_path / "run")
    assert run.config.guide.name == f"{path}:Mine"
    assert type(run.guide) is module.Mine
    assert type(pt.load(run.folder, guide=module.Mine).guide) is module.Mine
    assert type(pt.load(run.folder, trust=True).guide).__name__ == "Mine"


def test_what_a_run_does_not_need_is_not_taken(trained, made):
    live = cell(TEXT.format(ran="/dev/null"))
    with pytest.raises(UserError, match=r"Mine is no code that .* needs \(it needs none\)"):
        pt.load(trained.folder, guide=live.Mine)


BAD = {
    "no class": ({"guide": "{path}:not_one"}, "has no class 'not_one'"),
    "no module": ({"model": "{path}:Bound"}, "is no torch.nn.Module class"),
    "no objective": ({"objective": "{path}:not_one"}, "is no objective: expected"),
    "no such object": ({"objective": "{path}:boundd"}, r"has no object 'boundd'"),
    "no file": ({"model": "{path}x.py:Story"}, "does not exist"),
    "a number": ({"guide": 3}, "a guide is a name, FILE.py:CLASS or a class; got 3"),
}


@pytest.mark.parametrize(("arguments", "says"), BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_told_before_anything_is_written(made, tmp_path, arguments, says):
    path, _ = write_code(tmp_path)
    arguments = {k: v.format(path=path) if isinstance(v, str) else v for k, v in arguments.items()}
    with pytest.raises(UserError, match=says):
        pt.fit(set=made.changes, **arguments, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stages_objective_may_be_the_users_and_needs_consent(made, tmp_path):
    path, ran = write_code(tmp_path)
    stages = [{"name": "one", "steps": 4, "objective": f"{path}:bound"}, {"name": "two", "steps": 4}]
    run = pt.fit(set={**made.changes, "training.steps": None, "training.stages": stages}, out=tmp_path / "run")
    assert json.loads((run.folder / "code.json").read_text()).keys() == {f"{path}:bound"}
    ran.unlink()
    sys.modules.pop(next(name for name in sys.modules if name.startswith("ppl_text_user_mine")))
    with pytest.raises(TrustError, match="objective bound"):
        pt.load(run.folder)
    assert not ran.exists()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution on sys.path that declares a model, guides and an objective, as pip would leave it."""
    write_code(tmp_path, "their_package.py")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = {"models": "theirs = their_package:Story", "guides": "own = their_package:Mine"}
    points["objectives"] = "their-bound = their_package:Bound\ntheir-object = their_package:bound"
    lines = [f"[ppl_text.{group}]\n{entries}\n" for group, entries in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("their_package", None)


def test_installed_packages_add_models_guides_and_objectives(installed, made, tmp_path, ppl):
    names = {"model": "theirs", "guide": "own", "objective": "their-bound"}
    run = pt.fit(set=made.changes, **names, out=tmp_path / "run")
    assert type(run.model).__module__ == type(run.guide).__module__ == "their_package"
    assert run.config.objective == "their-bound"
    theirs = {"file": None, "origin": None, "sha256": None, "package": {"name": "theirs", "version": "1.0"}}
    record = json.loads((run.folder / "code.json").read_text())
    assert record == dict.fromkeys([f"{kind}:{name}" for kind, name in names.items()], theirs)
    assert not (run.folder / "code").exists()
    assert pt.load(run.folder).generate(1)
    assert "own" in ppl("list", "guides").out
    assert run.bound("their-object", limit=8)[0] < 0
    with pytest.raises(UserError, match="'their-bound' of an installed package takes no arguments"):
        run.bound("their-bound:4")


def test_files_of_one_name_are_kept_beside_each_other(tmp_path):
    first, second = (write_code(tmp_path / name)[0] for name in ("a", "b"))
    code = {}
    for path, name in ((first, "Mine"), (second, "bound")):
        code |= trust.named({"objective": f"{path}:{name}"})
    folder = tmp_path / "run"
    folder.mkdir()
    trust.keep(folder, code, {"guide": {"name": f"{first}:Mine"}, "objective": f"{second}:bound"})
    assert sorted(path.name for path in (folder / "code").iterdir()) == ["mine-2.py", "mine.py"]
