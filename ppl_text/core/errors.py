"""Errors are interface: each says what was expected, what came and what to do.

The command line prints the message of a :class:`PplTextError` without a traceback and leaves with
its ``exit_code``: 2 for a user's mistake, 1 for the machine's fault.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PplTextError(Exception):
    """Base of all errors that the project raises on purpose."""

    exit_code = 1


class UserError(PplTextError, ValueError):
    """A mistake that the user can mend: bad argument, bad file, bad combination."""

    exit_code = 2


class UnknownNameError(UserError):
    """A name that no registry knows, with the nearest ones that it does know."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        shown = name if len(name) <= 100 else f"{name[:99]}…"
        text = f"unknown {kind} '{shown}'{nearest(shown, known)}; known: {', '.join(known) or 'none'}"
        super().__init__(f"{text}. {hint}" if hint else text)


class DataError(UserError):
    """A corpus that cannot be read: names the file and, where there is one, the line."""

    def __init__(self, message: str, path: object = None, line: int | None = None) -> None:
        where = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        super().__init__(where + message)


class ConfigError(UserError):
    """A configuration with faults; all of them are listed at once."""


class GuideMismatchError(UserError):
    """Guide and model do not sample the same sites with the same shapes and supports."""


class RunFolderError(UserError):
    """A run folder that is not empty, holds no run, or holds another run than was asked for."""


class TrustError(RunFolderError):
    """A run that needs code of its own, which nobody has consented to run."""


class CheckpointError(PplTextError):
    """A checkpoint that could not be written or read back (the machine's fault)."""


class NonFiniteLossError(PplTextError):
    """The loss is NaN or infinite; names the site where it arose."""


class DivergedError(PplTextError):
    """What trained weights give is NaN or infinite; ``what`` of them, for which this says what to do."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the weights have diverged. {RETRAIN}")


RETRAIN = "Train again with a lower training.lr, a smaller training.clip_norm, or fewer steps"
"""What to do about weights that have diverged."""


class Interrupted(PplTextError):  # noqa: N818 - an event, not a fault
    """SIGINT or SIGTERM stopped the work after the state was saved (exit status 130 or 143)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ProcessLostError(PplTextError):
    """Another process of a parallel training is gone; what was saved stands."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest known name, or nothing where none is close.

    Example::

        >>> nearest("wrods", ["words", "verses"])
        " (did you mean 'words'?)"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""
