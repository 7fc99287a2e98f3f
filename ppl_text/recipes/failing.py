"""What a program of the user's raises, at whatever step and in whatever command, becomes one message with its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import wraps
from traceback import walk_tb
from typing import Any, TypeVar

from ..core import signals
from ..core.errors import PplTextError, UserError
from ..core.limits import out_of_memory
from ..core.registry import USER_MODULES
from .code import Code

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def users_programs(code: Code) -> Iterator[None]:
    """Context in which errors of programs that the user wrote are :class:`UserError`; an interruption stays one.

    An error is theirs where it passed through their code, and where their code runs and the error came of what it
    returned. All others, and those that say that memory is used up, pass as they are.

    Args:
        code: what may run of the user's.
    """
    try:
        yield
    except PplTextError:
        raise
    except (Exception, SystemExit) as error:
        place = place_in(error, modules_of(code))
        others = out_of_memory(error) or signals.received() or (isinstance(error, OSError) and not place)
        if others or not (place or code):
            raise
        where = place or f"after {', '.join(sorted({own.name for own in code.values()}))}: "
        raise UserError(f"a program of yours failed: {where}{in_words(error)}; mend the program") from error


def guarded(method: F) -> F:
    """Let a method of a run, which has the ``code`` that may run for it, run in :func:`users_programs`."""

    @wraps(method)
    def run(self: Any, *arguments: Any, **options: Any) -> Any:
        with users_programs(self.code):
            return method(self, *arguments, **options)

    return run  # type: ignore[return-value]


def in_words(error: BaseException) -> str:
    """Return kind and message of an error, without the tensors and the shapes that Pyro prints."""
    text = re.sub(r"tensor\(.*\)", "…", re.split("\\s*Trace Shapes:", str(error))[0], flags=re.DOTALL)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def modules_of(code: Code) -> set[str]:
    """Return the modules of what Python passed."""
    definitions = (own.live if hasattr(own.live, "__qualname__") else type(own.live) for own in code.values())
    return {found.__module__ for found in definitions} - {"builtins"}


def place_in(error: BaseException, modules: Collection[str] = ()) -> str:
    """Return ``FILE, line N: `` of the last line of the user's in an error's traceback; "" where there is none."""

    def is_own(name: str) -> bool:
        return name.startswith(USER_MODULES) or name in modules

    lines = list(walk_tb(error.__traceback__))
    own = [(f.f_code.co_filename, line) for f, line in lines if is_own(f.f_globals.get("__name__", ""))]
    return "{}, line {}: ".format(*own[-1]) if own else ""
