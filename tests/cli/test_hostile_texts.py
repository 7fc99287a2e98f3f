"""Texts from data, names of files and docstrings are data: no command lets a terminal obey them, nor a shell."""

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import threading

import pytest

HOSTILE = "\x1b]0;pwned\x07\x1b[31mred\x9b2J\u202egnp"
"""A title, a colour, a cleared screen in C1, an override of the direction; ends in an innocent word."""

OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def check(ended, *shown):
    for stream in (ended.out, ended.err):
        assert not OBEYED.search(stream), stream
    for part in shown:
        assert part in ended.out + ended.err


ERRORS = {
    "a command": lambda _: [HOSTILE],
    "an option": lambda _: ["fit", f"--{HOSTILE}"],
    "a recipe": lambda _: ["fit", HOSTILE],
    "a corpus": lambda _: ["fit", "--data", HOSTILE],
    "a key": lambda _: ["fit", "--set", f"{HOSTILE}=1"],
    "a colour alone": lambda _: ["evaluate", "x\x1b[31m"],
    "a value": lambda _: ["fit", "--set", f'seed="{HOSTILE[-4:]}"'],
    "a number": lambda _: ["fit", "--steps", HOSTILE],
    "a run": lambda _: ["evaluate", HOSTILE],
    "a guide": lambda _: ["fit", "--guide", f"{HOSTILE}.py:Mine"],
    "a file that raises": lambda w: [
        "fit",
        "--guide",
        w(f"{HOSTILE}.py", f"raise ValueError({HOSTILE!r})") + ":Mine",
    ],
    "a line of data": lambda w: ["fit", "--data", w("list.tsv", f"ab\t3\n{HOSTILE}\tmany\n")],
    "a column": lambda w: ["fit", "--data", w("list.csv", f"{HOSTILE},b\nx,y\n")],
    "JSON": lambda w: ["fit", "--data", w("list.jsonl", f'{{"word": "{HOSTILE}"\n')],
}


@pytest.mark.parametrize("arguments", ERRORS.values(), ids=ERRORS)
def test_messages(tmp_path, monkeypatch, ppl, arguments):
    def write(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    monkeypatch.chdir(tmp_path)
    ended = ppl(*arguments(write))
    assert ended.status == 2
    check(ended)


def test_a_colour_in_a_message_is_seen(ppl):
    check(ppl("evaluate", "x\x1b[31my"), "error: x\\u001b[31my does not exist")


def test_docstrings(tmp_path, monkeypatch, ppl, tiny_arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from guides.deep_state_space import DiagonalGuide\n\n\n"
        f"class Mine(DiagonalGuide):\n    {HOSTILE!r}\n\n"
        f"    def forward(self, batch):\n        print({HOSTILE!r})\n        super().forward(batch)\n",
        encoding="utf-8",
    )
    ended = ppl("explain", "--guide", "mine.py:Mine", *tiny_arguments)
    assert ended.status == 0
    check(ended, "Guide   \\u001b]0;pwned\\u0007")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, one_thread):
    """A run whose texts hold what terminals obey, in a folder whose name a shell would obey."""
    import ppl_text as pt

    folder = tmp_path_factory.mktemp("hostile")
    words = ["the", "a\x1b[31m", "b\x9b2J", "c\u202e", "<script>x</script>", "**d**", "[e](f)"]
    texts = [" ".join(words[(i + j) % 7] for j in range(4)) for i in range(60)]
    (folder / f"{HOSTILE}.txt").write_text("\n".join(texts), encoding="utf-8")
    sizes = {"model.hidden_dim": 8, "model.embedding_dim": 4, "model.latent_dim": 2, "guide.hidden_dim": 8}
    report = {"report.particles": 2, "report.sentences": 4, "report.samples": 12, "data.lower": False}
    changes = {**sizes, **report, "training.steps": 30, "sizes": [], "data.min_count": 1}
    return pt.fit("text-vae", data=folder / f"{HOSTILE}.txt", set=changes, out=folder / "my run; echo $HOME")


def test_generated_texts_and_reports(hostile, ppl):
    check(ppl("generate", hostile.folder, "-n", "20"), "\\u")
    check(ppl("generate", hostile.folder, "--reconstruct", "the a\x1b[31m"), "the a\\u001b[31m\t")
    check(ppl("evaluate", hostile.folder, "--particles", "2"))
    check(ppl("list", "options", hostile.folder / "config.yaml"), "\\u001b]0;pwned")


def test_reports_are_no_markup_of_texts(hostile):
    report = (hostile.folder / "report.md").read_text(encoding="utf-8")
    assert re.search(r"\\<script|\\\*\\\*d|\\\[e", report)  # some of the words stand in the samples
    assert not re.search(r"(?<!\\)<script|(?<!\\)\*\*d|(?<!\\)\[e(?<!\\)\]\(f", report)


def test_json_stays_json(hostile, ppl):
    ended = ppl("evaluate", hostile.folder, "--particles", "2", "--json", "--data", hostile.config.data.corpus)
    check(ended)
    assert json.loads(ended.out)["data"].endswith(f"{HOSTILE}.txt")


def test_printed_commands_are_quoted_for_a_shell(hostile, ppl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = ppl("fit", "--out", hostile.folder)
    (advice,) = re.findall(r"\(python -m ppl_text (.*?)\), or", refused.err)
    assert shlex.split(advice) == ["fit", "--resume", str(hostile.folder)]
    done = ppl("fit", "--resume", hostile.folder)
    assert done.status == 0
    check(done)
    for line in re.findall(r"^  python -m ppl_text (.*)$", done.out, re.MULTILINE)[:2]:
        assert str(hostile.folder) in shlex.split(line)
    unstarted = shutil.copytree(hostile.folder, tmp_path / "-x y")
    shutil.rmtree(unstarted / "checkpoints")
    monkeypatch.chdir(tmp_path)
    refused = ppl("fit", "--resume", "-x y")
    assert "start it anew: python -m ppl_text fit './-x y/config.yaml'" in refused.err


def test_a_terminal_gets_no_more_than_a_pipe(hostile, command, environment):
    """On a terminal, rich renders: of what comes from data, nothing is obeyed."""
    ours, theirs = pty.openpty()
    seen = []

    def read():
        try:
            while part := os.read(ours, 65536):
                seen.append(part)
        except OSError:
            seen.append(b"")

    reader = threading.Thread(target=read)
    reader.start()
    environ = environment | {"TERM": "xterm", "COLUMNS": "100"}
    line = command("fit", "--resume", hostile.folder)
    subprocess.run(line, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, check=True, timeout=120)
    os.close(theirs)
    reader.join()
    os.close(ours)
    text = b"".join(seen).decode()
    own = re.sub(r"\x1b\[[0-9;?]*[mKAHhlJG]|\r", "", text)
    assert not OBEYED.search(own), own
    assert "\x1b[31mred" not in text
    assert "\\u001b]0;pwned" in own.replace("\n", "")
