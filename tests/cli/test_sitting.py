"""The state of a sitting, without a terminal."""

import shutil
import sys
from types import SimpleNamespace

import pytest

import ppl_text as pt
from ppl_text import sitting as room
from ppl_text.core.errors import Interrupted, RunFolderError, UnknownNameError, UserError
from ppl_text.sitting import Sitting
from ppl_text.training.progress import Quiet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def sitting(copied):
    return Sitting(pt.load(copied), steps=2)


def states(sitting):
    return [row[-1] for row in sitting.rows()]


def test_the_guides_of_the_family_are_listed_by_number(sitting, tmp_path):
    names = [choice.name for choice in sitting.choices()]
    assert names[:2] == ["diagonal", "tril"]
    assert "N(m, G Gᵀ)" in sitting.choices()[1].density
    assert sitting.resolve("2") == sitting.resolve("tril") == "tril"
    assert sitting.resolve("~/x.py:Mine").startswith("/")
    for text in ("0", str(len(names) + 1), "99999999999999999999"):
        with pytest.raises(UserError, match=f"no guide number {text}; the list has 1 to {len(names)}"):
            sitting.resolve(text)
    with pytest.raises(UnknownNameError, match=r"unknown guide or command 'trill' \(did you mean 'tril'\?\)"):
        sitting.resolve("trill")
    with pytest.raises(UnknownNameError, match=r"did you mean 'table'\?"):
        sitting.resolve("tabel", ["table"])


def test_a_guide_from_a_file_joins_the_list(sitting, tmp_path):
    text = "from guides.deep_state_space import MeanFieldGuide\nclass Mine(MeanFieldGuide):\n    '''q: mine.'''\n"
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    number = len(sitting.choices()) + 1
    row = sitting.swap(f"{tmp_path}/mine.py:Mine")
    assert row.run.folder.name == "Mine-1"
    assert sitting.choices()[-1] == (f"{tmp_path}/mine.py:Mine", "q: mine.")
    assert sitting.resolve(str(number)) == f"{tmp_path}/mine.py:Mine"
    assert sitting.name == "mine.py:Mine"


def test_undo_goes_back_one_guide_at_a_time_and_removes_what_was_not_saved(sitting):
    first, second = sitting.swap("tril"), sitting.swap("mean-field", 3)
    assert (first.steps, second.steps) == (2, 3)
    assert states(sitting) == ["start", "", "current"]
    assert sitting.undo() is second
    assert sitting.current is first.run
    assert not second.run.folder.exists()
    sitting.save()
    assert states(sitting) == ["start", "current, saved", "undone"]
    sitting.undo()
    assert states(sitting) == ["start, current", "saved, undone", "undone"]
    assert sitting.current is sitting.start
    assert sitting.kept() == [first.run.folder]
    assert pt.load(first.run.folder).finished
    with pytest.raises(UserError, match="nothing to undo"):
        sitting.undo()
    with pytest.raises(UserError, match="nothing to save"):
        sitting.save()


def test_saving_elsewhere_moves_the_child_which_stays_a_run(sitting, tmp_path):
    row = sitting.swap("tril")
    old, bounds = row.run.folder, row.run.evaluate(particles=2)
    with pytest.raises(RunFolderError, match="is not empty; "):
        sitting.save(sitting.start.folder)
    assert old.is_dir()
    (tmp_path / "kept").mkdir()
    assert sitting.save(tmp_path / "kept") == tmp_path / "kept"
    assert not old.exists()
    moved = pt.load(tmp_path / "kept")
    assert moved.evaluate(particles=2) == bounds == sitting.current.evaluate(particles=2)
    assert moved.parent.folder == sitting.start.folder
    assert pt.fit(resume=moved.folder, steps=3).finished
    assert sitting.kept() == [tmp_path / "kept"]


def test_saving_on_another_disk_copies_whole_folders(sitting, tmp_path, monkeypatch):
    """Two devices, as far as the program can tell."""
    row = sitting.swap("prior")
    old, files = row.run.folder, {p.name: p.read_bytes() for p in row.run.folder.iterdir() if p.is_file()}
    stat = type(old).stat

    def elsewhere(path, **options):
        found = stat(path, **options)
        return SimpleNamespace(st_dev=-1, st_mode=found.st_mode) if path == old else found

    monkeypatch.setattr(type(old), "stat", elsewhere)
    sitting.save(tmp_path / "deep" / "kept")
    monkeypatch.undo()
    kept = tmp_path / "deep" / "kept"
    assert {p.name: p.read_bytes() for p in kept.iterdir() if p.is_file()} == files
    assert not old.exists()
    assert [p.name for p in kept.parent.iterdir()] == ["kept"]


class StopsAtOnce(Quiet):
    def step(self, record):
        import signal

        signal.raise_signal(signal.SIGINT)


def test_a_stopped_training_leaves_the_sitting_as_it_was(sitting, copied):
    first = sitting.swap("prior")
    with pytest.raises(Interrupted, match="Go on with: python -m ppl_text fit --resume"):
        sitting.swap("tril", 50, StopsAtOnce())
    assert sitting.current is first.run
    assert len(sitting.tried) == 1
    assert pt.fit(resume=copied / "swaps" / "tril-1").finished


def test_figures_are_of_the_same_sentences_in_every_row(sitting):
    row = sitting.swap("tril")
    start, tried = sitting.rows()
    found = sitting.start.evaluate("test", 4, 60, 0)
    assert start[:3] == ["diagonal", f"{found.elbo:.3f} ± {found.elbo_se:.3f}", f"{found.iw:.3f} ± {found.iw_se:.3f}"]
    assert tried[1] == f"{row.figures.elbo:.3f} ± {row.figures.elbo_se:.3f}"
    assert len(sitting.header()) == len(start) == len(tried)


def test_texts_are_of_the_current_guide(sitting):
    before = sitting.texts(4)
    sitting.swap("mean-field")
    samples, pairs = sitting.texts(4)
    assert samples == before[0] == sitting.start.generate(4)  # the model is the same
    assert [a for a, _ in pairs] == [a for a, _ in before[1]]
    assert [b for _, b in pairs] == sitting.current.reconstruct([a for a, _ in pairs])


def test_compare_is_asked_about_the_run_and_what_is_there(sitting, monkeypatch):
    asked = []
    fake = SimpleNamespace(compare_runs=lambda runs, **more: asked.append((runs, more)) or SimpleNamespace(text="t"))
    monkeypatch.setitem(sys.modules, "ppl_text.compare", fake)
    undone, kept = sitting.swap("tril"), None
    sitting.undo()
    kept = sitting.swap("prior")
    assert sitting.compare(["elbo"]) == "t"
    assert asked == [([sitting.start, kept.run], {"objectives": ["elbo"]})]
    assert undone.undone


def test_a_failed_swap_leaves_no_row(sitting, copied):
    with pytest.raises(UserError):
        sitting.swap("tril", -1)
    assert sitting.tried == []
    assert not (copied / "swaps").exists()
    shutil.rmtree(copied)
    assert room.density(type("G", (), {"__doc__": None})) == "(no docstring)"
