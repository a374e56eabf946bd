"""Format the frames of the user's own code in the tracebacks of an exception and of its causes."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from typing import Final

__all__ = ["own_frames"]

_LIBRARIES: Final = tuple(sysconfig.get_paths()[place] for place in ("stdlib", "platstdlib", "purelib", "platlib"))
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MOST: Final = 12
"""Maximum number of frames that are shown for one exception; the innermost frames are shown."""


def own_frames(error: BaseException | None) -> list[str]:
    """Return one line for each frame of the user's code, outermost first, and one line for each cause of `error`.

    The frames of the standard library, of installed packages and of this package are left out.
    """
    found = []
    for each in reversed(list(_chain(error))):
        lines = list(_frames(each))
        # The caller already shows the message of `error` itself.
        found += lines if each is error or not lines else [*lines, f"  {_message(each)}"]
    return found


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception, its cause, the cause of the cause, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _frames(error: BaseException) -> Iterator[str]:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    lines = [(f"{_short(frame.filename)}:{frame.lineno}", frame.line or "") for frame in frames[-_MOST:]]
    if isinstance(error, SyntaxError) and error.filename is not None and _is_own(error.filename):
        lines.append((f"{_short(error.filename)}:{error.lineno}", (error.text or "").strip()))
    width = max((len(place) for place, _ in lines), default=0)
    yield from (f"  {place:{width}}  {line}".rstrip() for place, line in lines)


def _message(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _is_own(file: str) -> bool:
    return not file.startswith((*_LIBRARIES, _PACKAGE, "<frozen"))


def _short(file: str) -> str:
    """Return the path relative to the current directory if the file is below this directory."""
    relative = os.path.relpath(file)
    return file if relative.startswith(os.pardir) else relative
