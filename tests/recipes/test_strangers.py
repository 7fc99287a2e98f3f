"""What a stranger's folder may say so that code runs: packages, paths, links, parents, recipes. None of it does."""

import importlib
import io
import json
import shutil
import sys

import pytest
import yaml

import ppl_text as pt
from ppl_text.core.errors import RunFolderError, TrustError, UserError
from ppl_text.training.progress import Quiet

from .own_code import write_code

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = ["--draws", "4", "--sentences", "8", "--repeats", "2"]

READING = {
    "evaluate": ["evaluate", "{run}", "--particles", "2", "--limit", "8"],
    "generate": ["generate", "{run}", "-n", "2"],
    "reconstruct": ["generate", "{run}", "--reconstruct", "ba"],
    "compare": ["compare", "{run}", "--objectives", "elbo", *FEW],
    "swap": ["swap", "{run}", "--guide", "prior", "--steps", "2"],
    "session": ["swap", "{run}"],
    "explain": ["explain", "{run}/config.yaml"],
    "list options": ["list", "options", "{run}/config.yaml"],
    "preset": ["list", "options", "{run}/config.yaml", "--set", "preset=paper"],
    "fit": ["fit", "{run}/config.yaml", "--out", "{run}-again"],
    "resume": ["fit", "--resume", "{run}", "--steps", "22"],
    "auto": ["fit", "--resume", "auto", "--out", "{run}", "--steps", "22"],
}
"""Every command that opens a run."""


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """Every test is a process of its own to the user's code, without byte code beside it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # a session ends at once
    yield
    for name in [name for name in sys.modules if name.startswith(("ppl_text_user_", "their_package"))]:
        del sys.modules[name]


def install(folder, version="1.0", name="theirs"):
    """Leave a distribution that offers ``foo`` of all kinds as pip would; return what tells that its code has run."""
    _, ran = write_code(folder, "their_package.py")
    for old in folder.glob("*.dist-info"):
        shutil.rmtree(old)
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = {"models": "Story", "guides": "Mine", "objectives": "Bound"}
    lines = [f"[ppl_text.{group}]\nfoo = their_package:{kind}\n" for group, kind in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    importlib.invalidate_caches()
    return ran


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on ``sys.path`` in which a package is not yet installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def edit(folder, **values):
    """Change a run's configuration behind its back: dotted keys by ``__``."""
    path = folder / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    for dotted, value in values.items():
        *sections, key = dotted.split("__")
        part = tree
        for section in sections:
            part = part[section]
        part[key] = value
    path.write_text(yaml.safe_dump(tree))
    return folder


NAMES = {
    "guide": {"guide__name": "foo"},
    "model": {"model__family": "foo"},
    "objective": {"objective": "foo"},
    "stage": {"training__stages": [{"name": "one", "steps": 2, "objective": "foo"}], "training__steps": None},
}


@pytest.mark.parametrize("words", READING.values(), ids=READING)
def test_no_command_imports_a_package_that_offers_a_runs_name_since(copied, site, ppl, words, monkeypatch):
    """The guide of the run was no name of a package when the run was made."""
    monkeypatch.setattr("ppl_text.fitting.start.is_finished", lambda *_: False)  # of auto
    ran = install(site)
    edit(copied, guide={"name": "foo"})
    refused = ppl(*(word.format(run=copied) for word in words))
    assert refused.status == 2
    assert "needs code of its own, and opening it would run" in refused.err
    says = "guide foo: their_package:Mine of the installed package theirs 1.0 (the run had no such name of a package)"
    assert says in refused.err
    assert not ran.exists()
    assert "their_package" not in sys.modules


@pytest.mark.parametrize("change", NAMES.values(), ids=NAMES)
def test_consent_to_a_package_is_trust_or_its_name(copied, site, change, ppl):
    kind = "objective" if "objective" in str(change) else next(iter(change)).partition("__")[0]
    ran = install(site)
    edit(copied, **change)
    with pytest.raises(TrustError, match=rf"{kind} foo: their_package:\w+ of the installed package theirs 1\.0"):
        pt.load(copied)
    assert ppl("explain", copied / "config.yaml").status == 2
    assert not ran.exists()
    assert ppl("explain", copied / "config.yaml", "--trust").status == 0
    assert ran.exists()
    assert pt.load(copied, **{kind: "foo"}).config


def test_a_run_records_its_packages_and_opens_with_just_these(tiny, site, tmp_path):
    ran = install(site)
    changes = {k: v for k, v in tiny.items() if not k.startswith("guide.")}
    run = pt.fit(set=changes, guide="foo", objective="foo", out=tmp_path / "run")
    record = json.loads((run.folder / "code.json").read_text())
    assert record.keys() == {"guide:foo", "objective:foo"}
    assert {str(entry["package"]) for entry in record.values()} == {"{'name': 'theirs', 'version': '1.0'}"}
    assert pt.load(run.folder).generate(1)
    child = run.swap_guide("prior", steps=2)
    assert pt.load(child.folder).parent.guide is not None
    for version, name in (("1.1", "theirs"), ("1.0", "others")):
        sys.modules.pop("their_package", None)
        ran.unlink()
        install(site, version, name)
        with pytest.raises(TrustError, match=rf"package {name} {version} \(the run had it from theirs 1\.0\)"):
            pt.load(run.folder)
        assert not ran.exists()
        assert pt.load(run.folder, trust=True).generate(1)
        assert ran.exists()


def test_a_stopped_run_of_a_package_needs_no_trust_to_go_on(tiny, site, tmp_path, ppl):
    install(site)
    changes = {k: v for k, v in tiny.items() if not k.startswith("guide.")}
    run = pt.fit(set=changes, guide="foo", out=tmp_path / "run")
    assert ppl("fit", "--resume", run.folder, "--steps", "22").status == 0
    assert ppl("fit", "--resume", run.folder, "--steps", "23", "--set", "guide.name=foo").status == 0
    assert "--trust" not in ppl("fit", "--resume", run.folder).out


def test_opening_a_run_imports_no_package_that_it_does_not_name(copied, site, ppl):
    ran = install(site)
    for words in (READING["evaluate"], READING["session"], READING["resume"]):
        ended = ppl(*(word.format(run=copied) for word in words))
        assert ended.status == 0, ended.err
    assert "foo" in ppl("swap", copied).out
    assert "of the installed package theirs 1.0" in ppl("swap", copied).out
    assert not ran.exists()


def test_a_child_of_a_stranger_in_the_runs_folder_is_not_imported(copied, site):
    """``compare`` looks through the finished children of a run."""
    ran = install(site)
    run = pt.load(copied)
    child = run.swap_guide("prior", steps=2)
    edit(child.folder, guide__name="foo")
    run.compare(["prior"], ["elbo"], draws=4, sentences=8, repeats=2, steps=2)
    assert not ran.exists()


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """A child without code of its own, whose parent has some: folders of both, and what tells that the code has run."""
    home = tmp_path_factory.mktemp("home")
    path, ran = write_code(home)
    changes = {k: v for k, v in tiny.items() if not k.startswith("guide.")}
    parent = pt.fit(set=changes, guide=f"{path}:Mine", out=home / "parent")
    child = parent.swap_guide("prior", steps=2, out=home / "child")
    path.unlink()
    return parent.folder, child.folder, ran


@pytest.fixture
def family(made, tmp_path):
    """The same, on a machine on which the code has not run; folders to do with as the test likes."""
    ran = made[-1]
    ran.unlink(missing_ok=True)
    parent, child = (shutil.copytree(folder, tmp_path / folder.name) for folder in made[:2])
    yield parent, edit(child, parent=str(parent)), ran
    ran.unlink(missing_ok=True)


@pytest.mark.parametrize("words", READING.values(), ids=READING)
def test_the_code_of_a_parent_does_not_run_for_its_child(family, ppl, words):
    _, child, ran = family
    ended = ppl(*(word.format(run=child) for word in words))
    assert ended.status in (0, 2), ended.err
    assert "Traceback" not in ended.err
    assert not ran.exists()


def test_the_code_of_a_parent_runs_by_consent(family):
    _, child, ran = family
    with pytest.raises(TrustError, match="guide Mine"):
        _ = pt.load(child).parent
    assert not ran.exists()
    assert pt.load(child, trust=True).parent.generate(1)
    assert ran.exists()


ELSEWHERE = {
    "above": lambda folder, evil: "../evil.py",
    "above the code": lambda folder, evil: "code/../../evil.py",
    "absolute": lambda folder, evil: str(evil),
    "a link": lambda folder, evil: link(folder / "code/mine.py", evil),
    "a linked folder": lambda folder, evil: link(folder / "code", evil.parent) and "code/evil.py",
}


def link(place, target):
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(target)
    return "code/mine.py"


@pytest.mark.parametrize("where", ELSEWHERE.values(), ids=ELSEWHERE)
@pytest.mark.parametrize("trusted", [True, False])
def test_nothing_outside_a_runs_folder_is_run_for_it(family, tmp_path, where, trusted):
    """With the right hash: who made the folder knows the file."""
    parent, _, ran = family
    evil = tmp_path / "evil.py"
    evil.write_bytes((parent / "code/mine.py").read_bytes())
    record = json.loads((parent / "code.json").read_text())
    (text,) = record
    record[text]["file"] = where(parent, evil)
    (parent / "code.json").write_text(json.dumps(record))
    with pytest.raises(RunFolderError, match="which is no file in" if trusted else "needs code of its own"):
        pt.load(parent, trust=trusted)
    assert not ran.exists()


@pytest.mark.parametrize("path", ["evil.py", "../evil.py", "./code/../evil.py", "run/code/evil.py", "linked.py"])
def test_a_path_in_a_strangers_configuration_is_no_consent(copied, tmp_path, path, monkeypatch, ppl):
    """Wherever it leads from the folder that the command runs in."""
    home = tmp_path / "a"
    (home / "code").mkdir(parents=True)
    monkeypatch.chdir(home)
    evil, ran = write_code((home / path).parent, "evil.py")
    (home / "linked.py").symlink_to(evil)
    edit(copied, guide={"name": f"{path}:Mine"}, objective=f"{path}:bound")
    for name, words in READING.items():
        if name == "auto":  # takes a finished run for none
            continue
        refused = ppl(*(word.format(run=copied) for word in words))
        assert refused.status == 2, words
        assert f"{(home / path).parent.resolve() / (home / path).name} (the run keeps no copy of it)" in refused.err
    assert not ran.exists()


@pytest.mark.parametrize("where", ["link", "other name", "below"])
def test_a_runs_configuration_under_another_name_is_that_run(family, tmp_path, where, ppl):
    parent, _, ran = family
    recipe = {"link": tmp_path / "my.yaml", "other name": parent / "my.yml", "below": parent / "code/my.yaml"}[where]
    if where == "link":
        recipe.symlink_to(parent / "config.yaml")
    else:
        shutil.copy(parent / "config.yaml", recipe)
    for words in (["explain", recipe], ["list", "options", recipe], ["fit", recipe, "--out", tmp_path / "new"]):
        refused = ppl(*words)
        assert refused.status == 2
        assert "needs code of its own" in refused.err
    assert not ran.exists()
    assert ppl("explain", recipe, "--trust").status == 0
    assert ran.exists()


@pytest.mark.parametrize("name", ["pyro:os", "pyro:os.system", "pyro:infer.Trace_ELBO", "pyro:Trace_MMD", "pyro:"])
def test_a_pyro_objective_is_one_of_pyros(copied, name, ppl):
    edit(copied, objective=name)
    ended = ppl("fit", "--resume", copied, "--steps", "22")
    assert ended.status == 2
    assert "Pyro objective" in ended.err or "use pyro:Trace_ELBO" in ended.err


def test_a_damaged_record_of_a_package_is_told(copied, site):
    install(site)
    nothing = {"file": None, "origin": None, "sha256": None}
    for package in ("theirs 1.0", {"name": "theirs"}, {"name": 1, "version": 2}, ["theirs", "1.0"]):
        (copied / "code.json").write_text(json.dumps({"guide:foo": {**nothing, "package": package}}))
        with pytest.raises(RunFolderError, match="no record of a run's code; the run folder is damaged"):
            pt.load(copied)


def test_sizes_and_stages_of_a_strangers_recipe_do_not_run_what_they_name(copied, tmp_path):
    """``sizes`` set keys once the corpus is read."""
    evil, ran = write_code(tmp_path / "home", "evil.py")
    edit(copied, sizes=[{"tokens": 1, "set": {"objective": f"{evil}:bound"}}])
    with pytest.raises(UserError, match="nothing here consents to run it"):
        pt.fit(str(copied / "config.yaml"), out=tmp_path / "new", progress=Quiet())
    assert not ran.exists()
