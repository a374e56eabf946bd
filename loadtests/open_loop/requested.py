"""The requests that a plan comes to, in the order of their instants, each as the bytes that are sent.

Decides what is sent and when. It must not know the clock, or what becomes of a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .plan import Plan, Stream
from .schedule import choices, phased

__all__ = ["Request", "requests"]


class Request(NamedTuple):
    """One request that is to be sent."""

    due: float
    """In seconds from the beginning."""
    stream: int
    """The number of its stream in the plan."""
    text: bytes
    path: str


def requests(plan: Plan) -> list[Request]:
    """Return all requests of the plan, ascending by their instants."""
    return sorted(each for number in range(len(plan.streams)) for each in _of(plan, number))


def _of(plan: Plan, number: int) -> Iterator[Request]:
    stream, seed = plan.streams[number], f"{plan.seed} {plan.streams[number].name} {number}"
    instants = phased(stream.rates, plan.phases, seed, stream.even)
    # Made once for each path, for there may be very many of them.
    texts = _texts(stream, plan.port)
    for due, path in zip(instants, choices(stream.paths, len(instants), seed), strict=True):
        yield Request(due, number, texts[path], path)


def _texts(stream: Stream, port: int) -> Mapping[str, bytes]:
    headers = "".join(f"{name}: {value}\r\n" for name, value in stream.headers.items())
    return {path: f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n".encode() for path in stream.paths}
