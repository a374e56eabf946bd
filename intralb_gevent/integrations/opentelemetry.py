"""Lets OpenTelemetry see requests that were ended before their time.

Its instrumentation of WSGI, Django, Flask and Falcon ends spans on `Exception` only. A request that is aborted with
a `BaseException` then has a span that never ends, and is never exported, or one that looks like a success. The spans of
a request are found in its environ and in the frames that the abort has passed through. Nothing is imported from
OpenTelemetry: where the application has not loaded it, there are no such spans.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType, TracebackType
from typing import Any, Final

__all__ = ["end_spans", "mark_spans", "open_spans"]

_PACKAGE: Final = "opentelemetry"
_INSTRUMENTATION: Final = "opentelemetry.instrumentation."

_STATUS_CODES: Final = {"http.method": "http.status_code", "http.request.method": "http.response.status_code"}
"""By the attribute of a request, which tells the old conventions from the new ones, the attribute of its response."""


def mark_spans(environ: Mapping[str, Any], frame: FrameType | None, outcome: str, status: str) -> None:
    """Give the spans of a request that is being ended its outcome; never waits. `frame` is where its handler is.

    Flask's and Falcon's instrumentation end them when the abort leaves the application, after which it is too late.
    """
    if _PACKAGE in sys.modules:
        # Spans can be of any class, and nothing may be raised here.
        with contextlib.suppress(Exception):
            for span in filter(_is_free, _open(environ, _outwards(frame))):
                _mark(span, outcome, status)


def _is_free(span: Any) -> bool:
    """Say whether a method of the span would not wait: the handler may have been interrupted while it held its lock."""
    lock = getattr(span, "_lock", None)
    if lock is None or not lock.acquire(blocking=False):
        return False
    lock.release()
    return True


def open_spans(environ: Mapping[str, Any], trace: TracebackType | None) -> list[Any]:
    """Return the spans that an abort has left open: those of the environ and of the frames in its traceback."""
    if _PACKAGE not in sys.modules:
        return []
    return _open(environ, reversed(list(_passed(trace))))


def end_spans(spans: Iterable[Any], environ: Mapping[str, Any], outcome: str, status: str) -> None:
    """End the spans of a request that was ended; an exporter may wait. Called in the context of the request."""
    for span in spans:
        _mark(span, outcome, status)
    for activation in list(_kept(environ, "activation_key")):
        # Django's instrumentation keeps this open, too; a garbage collector would close it in another context.
        activation.__exit__(None, None, None)
    for span in spans:
        if span.is_recording():
            span.end()


def _open(environ: Mapping[str, Any], frames: Iterable[FrameType]) -> list[Any]:
    """Return the spans of these frames and of the environ, each once, that are of a server and have not ended."""
    found = {id(span): span for span in (*_of_frames(frames), *_kept(environ, "span_key"))}
    return [span for span in found.values() if _is_of_server(span) and span.is_recording()]


def _is_of_server(span: Any) -> bool:
    # A middleware within another has one of kind INTERNAL. Those of outgoing requests are ended by their own libraries.
    return getattr(getattr(span, "kind", None), "name", None) in ("SERVER", "INTERNAL")


def _kept(environ: Mapping[str, Any], kind: str) -> Iterator[Any]:
    """Yield what the instrumentation has put in the environ under names that end so."""
    for key, value in list(environ.items()):
        if key.startswith(_PACKAGE) and key.endswith(kind):
            yield value


def _of_frames(frames: Iterable[FrameType]) -> Iterator[Any]:
    for frame in frames:
        if str(frame.f_globals.get("__name__")).startswith(_INSTRUMENTATION):
            yield frame.f_locals.get("span")


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _passed(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _mark(span: Any, outcome: str, status: str) -> None:
    attributes = getattr(span, "attributes", None) or {}
    if status[:3].isdigit():
        for of_request, of_response in _STATUS_CODES.items():
            if of_request in attributes:
                span.set_attribute(of_response, int(status[:3]))
    if "http.request.method" in attributes:
        span.set_attribute("error.type", outcome)
    span.set_status(sys.modules["opentelemetry.trace"].StatusCode.ERROR, outcome)
