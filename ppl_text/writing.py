"""What a run writes and encodes: all that its weights and its tokenizer say, without its corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from .core.batch import Batch, device_of
from .core.errors import UserError
from .core.latents import Latents
from .core.limits import MOST_TEXTS, check_most
from .data.forms import TextForm
from .evaluation.decoding import Strategy, as_strategy
from .evaluation.encoding import Values, decode_latents, encode_texts
from .evaluation.generation import Report, encode_batch, interpolate_texts, reconstruct_texts, sample_texts
from .evaluation.storytelling import LATENTS, PATHS, check_texts
from .recipes.code import Code
from .recipes.failing import guarded


class Writer:
    """A trained model and its guide with the form of their texts: base of :class:`ppl_text.run.Run`."""

    @property
    def model(self) -> nn.Module:
        """p(latents, tokens)."""
        raise NotImplementedError(f"{type(self).__name__}: define model")

    @property
    def guide(self) -> nn.Module:
        """q(latents | tokens)."""
        raise NotImplementedError(f"{type(self).__name__}: define guide")

    @property
    def code(self) -> Code:
        """What may run of the user's own code."""
        raise NotImplementedError(f"{type(self).__name__}: define code")

    @property
    def form(self) -> TextForm:
        """How typed texts are encoded, and how long they may be."""
        raise NotImplementedError(f"{type(self).__name__}: define form")

    def require_weights(self) -> None:
        """Raise where nothing has been trained yet."""
        raise NotImplementedError(f"{type(self).__name__}: define require_weights()")

    @guarded
    def generate(
        self,
        n: int = 10,
        seed: int = 0,
        strategy: Strategy | str = "sample",
        source: str | Sequence[str] | None = None,
        length: int | None = None,
        latents: str = LATENTS[0],
        progress: Report | None = None,
    ) -> list[str]:
        """n texts from the prior: latents drawn, then tokens by ``strategy`` (:mod:`ppl_text.evaluation.decoding`).

        Where nothing is latent, ``greedy`` and ``beam`` know one text only, and it comes once. ``source``: what a
        conditional model reads, one text or several; n texts are written for each. ``length``: how many tokens each
        text has, EOS not counted (words, or what else the run's tokenizer makes of a text); None: as it comes.
        ``latents``: ``sample``, or ``mean``: posterior means, where the story decodes from its guide (with ``greedy``
        the variational-attention paper's MAP); a deterministic strategy then knows one text for each source.
        ``progress(done, total)`` is told how many texts are written.
        """
        if n < 1:
            raise UserError(f"the number of texts must be 1 or more; got {n}")
        check_most(n, MOST_TEXTS, "the number of texts")
        self.require_weights()
        options: dict[str, Any] = {"steps": 2 * self.form.max_steps, "seed": seed, "strategy": as_strategy(strategy)}
        options |= {"length": length, "latents": latents, **({} if progress is None else {"report": progress})}
        options["source"] = self._read([source] if isinstance(source, str) else source)
        return sample_texts(self.model, self.form.tokenizer, n, guide=self.guide, **options).texts

    def _read(self, sources: Sequence[str] | None) -> Batch | None:
        """Encode what stands beside texts; raises :class:`UserError` where the run's data have no such side."""
        if sources is None:
            return None
        tokenizer = self.form.source_tokenizer
        if tokenizer is None:
            raise UserError("the data of this run have no sources; leave the source out")
        sources = [self.form.clean(text) for text in sources]
        check_texts(tokenizer, sources, self.form.max_source_steps, "source")
        return encode_batch(tokenizer, sources)

    @guarded
    def reconstruct(
        self,
        texts: Sequence[str],
        seed: int = 0,
        strategy: Strategy | str = "greedy",
        sources: Sequence[str] | None = None,
        progress: Report | None = None,
    ) -> list[str]:
        """Latents drawn from the guide for each text, then tokens by ``strategy``; ``sources``: one beside each.

        ``progress(done, total)`` is told how many are done.
        """
        self.require_weights()
        options: dict[str, Any] = {"max_steps": self.form.max_steps, "seed": seed, "strategy": as_strategy(strategy)}
        options |= {} if progress is None else {"report": progress}
        options["source"] = self._beside(texts, sources)
        texts = [self.form.clean(text) for text in texts]
        return reconstruct_texts(self.model, self.guide, self.form.tokenizer, texts, **options)

    @guarded
    def encode(
        self,
        texts: Sequence[str],
        seed: int = 0,
        sources: Sequence[str] | None = None,
        latents: str = LATENTS[0],
    ) -> Latents:
        """Latents (N, …) of N texts by site, as tensors; :meth:`decode` writes texts of them.

        ``latents``: ``sample``, one draw from the guide for each text, the same one for the same ``seed``; or ``mean``,
        the posterior mean, which is taken from 16 draws where the guide does not know it. Draws are what the model
        was trained to decode, so that ``decode(encode(texts))`` is ``reconstruct(texts)``; means are steadier where
        latents are compared or plotted. What runs along a text is 0 past the text's end (whole numbers: -1).
        ``sources``: one beside each text.
        """
        self.require_weights()
        given = _list_of(texts)
        options: dict[str, Any] = {"max_steps": self.form.max_steps, "seed": seed, "latents": latents}
        options["source"] = self._beside(given, sources)
        return encode_texts(self.model, self.guide, self.form.tokenizer, list(map(self.form.clean, given)), **options)

    @guarded
    def decode(
        self,
        latents: Values,
        seed: int = 0,
        strategy: Strategy | str = "greedy",
        sources: Sequence[str] | None = None,
    ) -> list[str]:
        """One text for each row of latents (N, …) by site: those of :meth:`encode`, moved or mixed, or your own.

        ``strategy`` as for :meth:`generate`, ``seed`` for one that draws; ``sources``: one for each text.
        """
        self.require_weights()
        options: dict[str, Any] = {"max_steps": self.form.max_steps, "seed": seed, "strategy": as_strategy(strategy)}
        options["source"] = self._read(None if sources is None else _list_of(sources))
        return decode_latents(self.model, self.guide, self.form.tokenizer, latents, **options)

    def batch(self, texts: Sequence[str], sources: Sequence[str] | None = None) -> Batch:
        """Texts as model and guide are given them, on their device: ``run.guide(run.batch(texts))`` runs the program.

        No word is dropped and every row counts once. ``sources``: one beside each text.
        """
        given = _list_of(texts)
        if not given:
            raise UserError("no text to make a batch of; give a list of one or more")
        source, cleaned = self._beside(given, sources), [self.form.clean(text) for text in given]
        check_texts(self.form.tokenizer, cleaned, self.form.max_steps)
        return encode_batch(self.form.tokenizer, cleaned, source).to(device_of(self.model))

    def _beside(self, texts: Sequence[str], sources: Sequence[str] | None) -> Batch | None:
        """Encode one source beside each text; raises :class:`UserError` where they are not as many."""
        if sources is not None and len(sources) != len(texts):
            raise UserError(f"{len(texts)} texts need as many sources; got {len(sources)}")
        return self._read(sources)

    @guarded
    def interpolate(
        self,
        first: str,
        second: str,
        points: int = 7,
        seed: int = 0,
        path: str = PATHS[0],
        strategy: Strategy | str = "greedy",
        source: str | None = None,
        sites: Sequence[str] | None = None,
    ) -> list[str]:
        """Texts between two texts, from latents to latents, both drawn from the guide; ``path`` spherical or linear.

        Where latents are paths through the tokens, through the noise that drives the prior. ``source``: what a
        conditional model reads, for all of them. ``sites``: the latents that move, by name, while the others stay at
        those of ``first``; None: all move at once.
        """
        self.require_weights()
        options: dict[str, Any] = {"path": path, "strategy": as_strategy(strategy), "seed": seed}
        options |= {"points": points, "max_steps": self.form.max_steps, "sites": sites}
        options["source"] = self._read(None if source is None else [source])
        ends = self.form.clean(first), self.form.clean(second)
        return interpolate_texts(self.model, self.guide, self.form.tokenizer, *ends, **options)


def _list_of(texts: Sequence[str]) -> list[str]:
    """Return texts as a list; raises :class:`UserError` for a single text, which is a sequence of letters."""
    if isinstance(texts, str):
        raise UserError(f"expected a list of texts, e.g. [{texts!r}]; got one text")
    found = list(texts)
    for text in found:
        if not isinstance(text, str):
            raise UserError(f"expected a list of texts; got one of type {type(text).__name__} in it")
    return found
