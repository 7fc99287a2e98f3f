"""A user's own sentences: one file that is divided here, a folder with its own splits, or a data set of the hub."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppl_text.core.errors import DataError

from .corpus import Corpus
from .folders import listed, split_files
from .options import SentenceOptions, sentence_options
from .sentences import assemble, division
from .sources import ENDINGS, Source, file_source, hub_sources


def load_sentences(path: Path | str, **options: Any) -> Corpus:
    """Sentences of a FILE, divided as :func:`~ppl_text.data.sentences.division` says, or of a DIR.

    A FILE is text with one sentence on each line (``label<TAB>text`` in a ``.tsv``, or where the first line has a
    tab), or csv, jsonl or parquet with a column of texts. A DIR needs ``train.{txt,tsv,csv,jsonl,parquet}``; of
    ``valid`` and ``test``, one that it lacks is taken from train. ``options`` are those of
    :class:`~ppl_text.data.options.SentenceOptions`; ``limit`` is for train alone.

    Raises :class:`DataError` for all that is wrong with the data, :class:`ConfigError` for the options.
    """
    path = Path(path).expanduser()
    chosen = sentence_options(options)
    if os.path.isdir(path):
        found = split_files(path, ENDINGS)
        notes = [f"not read in {path}: {listed(others)}"] if (others := _others(path, found)) else []
        sources = {split: file_source(file, chosen.column) for split, file in found.items()}
        return _corpus(str(path), sources, chosen, options, notes)
    if not os.path.isfile(path):
        problem = "neither a file nor a folder" if os.path.exists(path) else "no such file or folder"
        raise DataError(f"{problem}; expected sentences, or a folder with train.txt", path)
    return _corpus(str(path), {"train": file_source(path, chosen.column)}, chosen, options)


def load_hub(name: str, **options: Any) -> Corpus:
    """Sentences of the data set ``name`` on the Hugging Face hub (or in a folder laid out like one).

    Its splits are ``train`` and, where there are any, ``validation`` (``valid``, ``dev``) and ``test``; one that it
    lacks is taken from train. Raises like :func:`load_sentences`.
    """
    chosen = sentence_options(options)
    return _corpus(f"hub:{name}", hub_sources(name, chosen.subset, chosen.column), chosen, options)


def _corpus(
    name: str, sources: Mapping[str, Source], chosen: SentenceOptions, given: Iterable[str], notes: Sequence[str] = ()
) -> Corpus:
    missing = [split for split in ("test", "valid") if split not in sources]
    unused = [] if missing else sorted({"seed", "test_share", "valid_share"} & set(given))
    unused += ["subset"] * (chosen.subset is not None and not name.startswith("hub:"))
    told = [*notes, f"not used: {', '.join(unused)}"] if unused else [*notes]
    if not os.path.isfile(name):
        told += [f"no {split} in {name}: taken from train" for split in missing]
    return assemble(name, sources, chosen, division(chosen, missing), told)


def _others(folder: Path, found: Mapping[str, Path]) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p not in found.values() and p.name[0] != ".")
