"""The state of a session, without a terminal."""

import shutil
import sys
from types import SimpleNamespace

import pytest

import ppl_text as pt
from ppl_text.cli import session as room
from ppl_text.cli.conversation import Conversation
from ppl_text.cli.session import Session
from ppl_text.core.errors import Interrupted, RunFolderError, UnknownNameError, UserError
from ppl_text.training.progress import Quiet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def session(copied):
    return Session(pt.load(copied), steps=2)


def states(session):
    return [row[-1] for row in session.rows()]


def test_the_guides_of_the_family_are_listed_by_number(session, tmp_path):
    names = [choice.name for choice in session.choices()]
    assert names[:2] == ["diagonal", "tril"]
    assert "N(m, G Gᵀ)" in session.choices()[1].density
    assert session.resolve("2") == session.resolve("tril") == "tril"
    assert session.resolve("~/x.py:Mine").startswith("/")
    for text in ("0", str(len(names) + 1), "99999999999999999999"):
        with pytest.raises(UserError, match=f"no guide number {text}; the list has 1 to {len(names)}"):
            session.resolve(text)
    with pytest.raises(UnknownNameError, match=r"unknown guide or command 'trill' \(did you mean 'tril'\?\)"):
        session.resolve("trill")
    with pytest.raises(UnknownNameError, match=r"did you mean 'table'\?"):
        session.resolve("tabel", ["table"])


def test_a_guide_from_a_file_joins_the_list(session, tmp_path):
    text = "from guides.deep_state_space import MeanFieldGuide\nclass Mine(MeanFieldGuide):\n    '''q: mine.'''\n"
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    number = len(session.choices()) + 1
    row = session.swap(f"{tmp_path}/mine.py:Mine")
    assert row.run.folder.name == "Mine-1"
    assert session.choices()[-1] == (f"{tmp_path}/mine.py:Mine", "q: mine.")
    assert session.resolve(str(number)) == f"{tmp_path}/mine.py:Mine"
    assert session.name == "mine.py:Mine"


def test_undo_goes_back_one_guide_at_a_time_and_removes_what_was_not_saved(session):
    first, second = session.swap("tril"), session.swap("mean-field", 3)
    assert (first.steps, second.steps) == (2, 3)
    assert states(session) == ["start", "", "current"]
    assert session.undo() is second
    assert session.current is first.run
    assert not second.run.folder.exists()
    session.save()
    assert states(session) == ["start", "current, saved", "undone"]
    session.undo()
    assert states(session) == ["start, current", "saved, undone", "undone"]
    assert session.current is session.start
    assert session.kept() == [first.run.folder]
    assert pt.load(first.run.folder).finished
    with pytest.raises(UserError, match="nothing to undo"):
        session.undo()
    with pytest.raises(UserError, match="nothing to save"):
        session.save()


def test_undo_removes_only_what_the_session_made(session, tmp_path):
    row = session.swap("tril")
    folder = row.run.folder
    others = {"notes.md": "mine", "figures/mine.png": "mine", "code/mine.py": "mine", "report.md": "mine, now"}
    for name, text in others.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "empty").mkdir()
    row.run.evaluate(particles=2, limit=4, store=folder / "scores.safetensors")
    (folder / "link").symlink_to(session.start.folder)
    session.undo()
    assert session.current is session.start
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or path.is_file()}
    assert left == {*others, "scores.safetensors", "link"}
    assert (folder / "empty").is_dir()
    assert session.start.generate(1)


def test_undo_of_a_folder_that_has_been_replaced_removes_nothing(session, tmp_path):
    row = session.swap("tril")
    folder = row.run.folder
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    session.undo()
    assert (tmp_path / "elsewhere/model.safetensors").is_file()


def test_undo_says_what_is_left(session, capsys):
    talk = Conversation(session)
    talk.obey("tril")
    folder = session.current.folder
    (folder / "notes.md").write_text("mine")
    talk.obey("undo")
    talk.obey("prior")
    talk.obey("undo")
    out = capsys.readouterr().out
    assert f"{folder} was removed but for what others have put there; current: diagonal" in out
    assert "prior-1 was removed; current: diagonal" in out


def test_saving_elsewhere_moves_the_child_which_stays_a_run(session, tmp_path):
    row = session.swap("tril")
    old, bounds = row.run.folder, row.run.evaluate(particles=2)
    with pytest.raises(RunFolderError, match="is not empty; "):
        session.save(session.start.folder)
    assert old.is_dir()
    (tmp_path / "kept").mkdir()
    assert session.save(tmp_path / "kept") == tmp_path / "kept"
    assert not old.exists()
    moved = pt.load(tmp_path / "kept")
    assert moved.evaluate(particles=2) == bounds == session.current.evaluate(particles=2)
    assert moved.parent.folder == session.start.folder
    assert pt.fit(resume=moved.folder, steps=3).finished
    assert session.kept() == [tmp_path / "kept"]


def test_saving_on_another_disk_copies_whole_folders(session, tmp_path, monkeypatch):
    """Two devices, as far as the program can tell."""
    row = session.swap("prior")
    old, files = row.run.folder, {p.name: p.read_bytes() for p in row.run.folder.iterdir() if p.is_file()}
    stat = type(old).stat

    def elsewhere(path, **options):
        found = stat(path, **options)
        return SimpleNamespace(st_dev=-1, st_mode=found.st_mode) if path == old else found

    monkeypatch.setattr(type(old), "stat", elsewhere)
    session.save(tmp_path / "deep" / "kept")
    monkeypatch.undo()
    kept = tmp_path / "deep" / "kept"
    assert {p.name: p.read_bytes() for p in kept.iterdir() if p.is_file()} == files
    assert not old.exists()
    assert [p.name for p in kept.parent.iterdir()] == ["kept"]


class StopsAtOnce(Quiet):
    def step(self, record):
        import signal

        signal.raise_signal(signal.SIGINT)


def test_a_stopped_training_leaves_the_session_as_it_was(session, copied):
    first = session.swap("prior")
    with pytest.raises(Interrupted, match="Go on with: python -m ppl_text fit --resume"):
        session.swap("tril", 50, StopsAtOnce())
    assert session.current is first.run
    assert len(session.tried) == 1
    assert pt.fit(resume=copied / "swaps" / "tril-1").finished


def test_figures_are_of_the_same_sentences_in_every_row(session):
    row = session.swap("tril")
    start, tried = session.rows()
    found = session.start.evaluate("test", 4, 60, 0)
    assert start[:3] == ["diagonal", f"{found.elbo:.3f} ± {found.elbo_se:.3f}", f"{found.iw:.3f} ± {found.iw_se:.3f}"]
    assert tried[1] == f"{row.figures.elbo:.3f} ± {row.figures.elbo_se:.3f}"
    assert len(session.header()) == len(start) == len(tried)
    place = session.header().index("parameters")
    for run, cells in ((session.start, start), (row.run, tried)):
        assert cells[place] == f"{sum(p.numel() for p in run.guide.parameters()):,}"


def test_texts_are_of_the_current_guide(session):
    before = session.texts(4)
    session.swap("mean-field")
    samples, pairs = session.texts(4)
    assert samples == before[0] == session.start.generate(4)  # the model is the same
    assert [a for a, _ in pairs] == [a for a, _ in before[1]]
    assert [b for _, b in pairs] == session.current.reconstruct([a for a, _ in pairs])


def test_compare_is_asked_about_the_run_and_what_is_there(session, monkeypatch):
    asked = []
    fake = SimpleNamespace(compare_runs=lambda runs, **more: asked.append((runs, more)) or SimpleNamespace(text="t"))
    monkeypatch.setitem(sys.modules, "ppl_text.recipes.compare", fake)
    undone, kept = session.swap("tril"), None
    session.undo()
    kept = session.swap("prior")
    assert session.compare(["elbo"]) == "t"
    assert asked == [([session.start, kept.run], {"objectives": ["elbo"]})]
    assert undone.undone


def test_a_failed_swap_leaves_no_row(session, copied):
    with pytest.raises(UserError):
        session.swap("tril", -1)
    assert session.tried == []
    assert not (copied / "swaps").exists()
    shutil.rmtree(copied)
    assert room.density(type("G", (), {"__doc__": None})) == "(no docstring)"
