"""Formats an application's exception for the log: type, message, traceback, and the exceptions that caused it.

Formatting a traceback calls `str()` on each exception, which may run application code. Therefore, `str()` is first
called on each exception under a time limit (`Bound`). If a call takes too long, or returns too long a text, the
traceback is formatted without calling the exceptions' methods. The messages are then shortened or omitted.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import gevent

from ..aborts.bound import Bound, OutOfTime
from ..aborts.safepoints import calls_application
from ..naming import type_name
from ..quoting import escaped

__all__ = ["ErrorText", "error_line", "error_text"]

COMPUTE_SECONDS = 0.5
WAIT_SECONDS = 5.0

LONGEST_MESSAGE = 10_000
"""Maximum length of one exception's message, in characters."""

LONGEST = 200_000
"""Maximum length of the whole text, in characters; a longer text is logged without its middle."""

_LONGEST_LINE = 300
_MOST_ERRORS = 1000
"""Maximum number of exceptions in a chain or a group whose messages are checked."""

_FEW_FRAMES = 50
_FEW_ERRORS = 10
"""Maximum number of frames, and of chained exceptions, in the text if the standard formatting fails."""

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


@dataclass(frozen=True)
class ErrorText:
    """A traceback as text; `harmless` is true if log handlers may format the exception themselves."""

    text: str
    harmless: bool


@calls_application
def error_text(error: BaseException) -> ErrorText:
    """Return an exception's traceback as text, within `WAIT_SECONDS`, even if the exception's `str()` raises."""
    messages: dict[int, str] = {}
    bound = Bound(COMPUTE_SECONDS, WAIT_SECONDS)
    try:
        with bound:
            _collect(error, messages)
            text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        if not bound.exceeded:
            return ErrorText(_shortened(text.rstrip(), LONGEST), harmless=True)
    except BaseException as failure:
        messages.setdefault(id(error), _no_message(failure))
    return ErrorText(_plain(error, messages), harmless=False)


@calls_application
def error_line(error: BaseException) -> str:
    """Return the type and message of an exception in one line."""
    try:
        with Bound(COMPUTE_SECONDS, WAIT_SECONDS):
            message = str(error)
    except BaseException as failure:
        message = _no_message(failure)
    return f"{type_name(error)}: {escaped(' '.join(message[:_LONGEST_LINE].split()))}"


def _no_message(failure: BaseException) -> str:
    slow = isinstance(failure, (OutOfTime, gevent.Timeout))
    return f"<no message: its str() {'took too long' if slow else f'raised {type_name(failure)}'}>"


class _TooLong(Exception):
    """Raised if a message is longer than `LONGEST_MESSAGE`."""


@calls_application
def _collect(error: BaseException, messages: dict[int, str]) -> None:
    """Store the message of each exception in a traceback; raises `_TooLong` after the first overlong message."""
    for shown in _connected(error):
        try:
            message = str(shown)
        except Exception as failure:
            message = _no_message(failure)
        messages[id(shown)] = _shortened(message, LONGEST_MESSAGE)
        notes = getattr(shown, "__notes__", ())
        if len(message) > LONGEST_MESSAGE or sum(map(len, map(str, notes or ()))) > LONGEST_MESSAGE:
            raise _TooLong


def _connected(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes, contexts and group members, recursively; at most `_MOST_ERRORS`."""
    waiting, seen = [error], {id(error)}
    for _ in range(_MOST_ERRORS):
        if not waiting:
            return
        shown = waiting.pop()
        yield shown
        members = getattr(shown, "exceptions", ())
        further = members if isinstance(members, (tuple, list)) else ()
        for other in (shown.__cause__, shown.__context__, *further):
            if isinstance(other, BaseException) and id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)


def _plain(error: BaseException, messages: dict[int, str]) -> str:
    """Return the text for the last exceptions in the chain, without calling any code of these exceptions."""
    links = list(_chain(error))
    texts = [text for link, connection in reversed(links) for text in (*_one(link, messages), connection)]
    return "".join(texts).rstrip()


def _chain(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    """Yield an exception and then its causes and contexts, each with the sentence that follows it in a traceback."""
    link: BaseException | None = error
    connection = ""
    for _ in range(_FEW_ERRORS):
        if link is None:
            return
        yield link, connection
        if link.__cause__ is not None:
            link, connection = link.__cause__, _CAUSE
        else:
            link, connection = None if link.__suppress_context__ else link.__context__, _CONTEXT


def _one(error: BaseException, messages: dict[int, str]) -> Iterator[str]:
    frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), limit=-_FEW_FRAMES)
    yield "Traceback (most recent call last):\n"
    yield from frames.format()
    yield f"{type_name(error)}: {messages.get(id(error), '<no message>')}\n"


def _shortened(text: str, longest: int) -> str:
    """Return a text, without its middle if it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n... ({len(text) - longest} characters left out) ...\n{text[-half:]}"
