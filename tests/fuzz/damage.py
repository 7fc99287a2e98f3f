"""Run folders that are not what they were: files cut, bent, exchanged, or well formed and wrong."""

import io
import json
import os
from typing import NamedTuple

import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from .values import TEXTS, plain, scalars

RECORDS = ("data.json", "environment.json", "results.json", "tokenizer.json", "metrics.jsonl", "config.yaml")


class Damage(NamedTuple):
    """What is done to which file of a run, at which place in it (a share of its length, or of its keys)."""

    file: str
    kind: str
    place: float
    value: object = None


def damages(files):
    """Strategy of a damage to one of a run's files."""
    whole = ("empty", "missing", "folder", "pipe", "link to itself", "other")
    places = st.floats(0, 0.999)
    anywhere = st.tuples(st.sampled_from(files), st.sampled_from(("cut", "bent")), places, st.integers(0, 255))
    replaced = st.tuples(st.sampled_from(files), st.sampled_from(whole), places)
    records = st.sampled_from([name for name in files if name in RECORDS])
    wrong = st.tuples(records, st.sampled_from(("removed", "value", "name", "whole")), places, plain() | scalars())
    raw = st.tuples(records, st.just("raw"), places, st.sampled_from(TEXTS))
    states = [name for name in files if name.endswith((".pt", ".safetensors"))]
    inner = st.tuples(st.sampled_from(states), st.sampled_from(("removed", "value", "nan")), places, plain())
    return st.one_of(anywhere, replaced, wrong, wrong, raw, *[inner] * bool(states)).map(lambda found: Damage(*found))


def damage(folder, what):
    """Do it."""
    path = folder / what.file
    {"cut": _cut, "bent": _bent, "raw": _raw}.get(what.kind, _WHOLE.get(what.kind, _inside))(path, what)


def _cut(path, what):
    content = path.read_bytes()
    path.write_bytes(content[: int(what.place * len(content))])


def _bent(path, what):
    content = bytearray(path.read_bytes())
    content[int(what.place * len(content))] = what.value
    path.write_bytes(content)


def _raw(path, what):
    text = path.read_text(encoding="utf-8")
    at = int(what.place * len(text))
    path.write_text(text[:at] + what.value + text[at:], encoding="utf-8", errors="replace")


def _replaced(make):
    def do(path, what):
        path.unlink()
        make(path)

    return do


_WHOLE = {
    "empty": _replaced(lambda path: path.write_bytes(b"")),
    "missing": lambda path, what: path.unlink(),
    "folder": _replaced(lambda path: path.mkdir()),
    "pipe": _replaced(os.mkfifo),
    "link to itself": _replaced(lambda path: path.symlink_to(path.name)),
    "other": _replaced(lambda path: path.write_text("# Run\n\n| what | value |\n", encoding="utf-8")),
}


def _inside(path, what):
    """Change one value of a structured file, which stays well formed."""
    if path.suffix == ".safetensors":
        _tensors(path, what)
    elif path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        buffer = io.BytesIO()
        torch.save(_changed(state, what), buffer)
        path.write_bytes(buffer.getvalue())
    elif path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines()
        at = int(what.place * len(lines))
        lines[at] = json.dumps(_changed(json.loads(lines[at]), what))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif path.suffix == ".yaml":
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(yaml.safe_dump(_changed(tree, what)), encoding="utf-8")
    else:
        path.write_text(json.dumps(_changed(json.loads(path.read_text(encoding="utf-8")), what)), encoding="utf-8")


def _tensors(path, what):
    header = path.read_bytes()[8:]
    metadata = json.JSONDecoder().raw_decode(header.decode("latin-1"))[0].get("__metadata__", {})
    tensors = load_file(path)
    name = sorted(tensors)[int(what.place * len(tensors))]
    if what.kind == "nan":
        tensors[name] = torch.full_like(tensors[name], torch.nan)
    elif what.kind == "removed":
        del tensors[name]
    elif isinstance(what.value, str):
        metadata = {**metadata, next(iter(metadata), "a"): what.value}
    else:
        tensors[name] = tensors[name].flatten()[:1].double()
    save_file(tensors, path, metadata)


def _changed(tree, what):
    """Return the tree with one of its values, at whatever depth, removed, renamed or replaced."""
    places = list(_places(tree))
    if what.kind in ("whole", "nan") or not places:
        return what.value
    *way, last = places[int(what.place * len(places))]
    inner = tree
    for key in way:
        inner = inner[key]
    if what.kind == "removed":
        del inner[last]
    elif what.kind == "name" and isinstance(inner, dict):
        inner[f"{last}x"] = inner.pop(last)
    else:
        inner[last] = what.value
    return tree


def _places(tree, way=()):
    """Ways to all values of a tree, and not to more than fifty entries of a list or a section."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(entries)[:50]:
        yield (*way, key)
        yield from _places(value, (*way, key))
