"""A flood in the middle of a closed loop: 20 clients that ask again at once, refused or not, and 200 others for a time.

Decides the phases, and what is noted of them. It must not know the goals.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Final

from .clients import Client, all_at_once

__all__ = ["FLOODS", "SHEDDABLE", "Flooded", "play"]

SHEDDABLE: Final = "sheddable, the clients critical"
FLOODS: Final = {"as critical as the clients": (), SHEDDABLE: ("--routes", "/flood/* priority=sheddable")}
"""What is told of the flood, and how our server is told."""

_CLIENTS: Final = 20
_OTHERS: Final = 200
_PAUSE_SECONDS: Final = 0.8
"""Each of the others asks so often: 250 a second together, five times what can be done of 20 ms each."""
_BEFORE, _FLOOD, _AFTER = 5.0, 20.0, 12.0


@dataclass(frozen=True)
class Flooded:
    """What the 20 clients were answered: per second, and how many refusals, before, during and after the flood."""

    before: float
    during: float
    after: float
    refused_before: int
    refused_during: int
    refused_after: int
    refused_until: float
    """How long after the end of the flood the last refusal came, in seconds; 0 if there was none."""


def play(port: int) -> Flooded:
    """Let the clients ask all the time, and the others meanwhile."""
    clients = [Client(port, "/cpu/20") for _ in range(_CLIENTS)]
    others = [Client(port, "/flood/20") for _ in range(_OTHERS)]
    began = time.monotonic()
    floods, ends = began + _BEFORE, began + _BEFORE + _FLOOD
    until = ends + _AFTER
    asking = [partial(_ask_until, client, until) for client in clients]
    flooding = [
        partial(_flood, other, floods + number * _PAUSE_SECONDS / _OTHERS, ends) for number, other in enumerate(others)
    ]
    all_at_once([*asking, *flooding])
    for client in (*clients, *others):
        client.close()
    answers = [answer for client in clients for answer in client.answers]
    return _flooded(answers, began, floods, ends, until)


def _ask_until(client: Client, end: float) -> None:
    while time.monotonic() < end:
        client.ask()


def _flood(client: Client, begins: float, ends: float) -> None:
    never = threading.Event()
    for turn in itertools.count():
        at = begins + turn * _PAUSE_SECONDS
        if at >= ends:
            return
        never.wait(max(0.0, at - time.monotonic()))
        client.ask()


def _flooded(answers: list[tuple[float, str]], began: float, floods: float, ends: float, until: float) -> Flooded:
    phases = [(began, floods), (floods, ends), (ends, until)]
    served = [sum(since <= at < end and answer == "200" for at, answer in answers) for since, end in phases]
    refused = [sum(since <= at < end and answer != "200" for at, answer in answers) for since, end in phases]
    rates = [count / (end - since) for count, (since, end) in zip(served, phases, strict=True)]
    last = max((at for at, answer in answers if answer != "200"), default=0.0)
    return Flooded(
        before=rates[0],
        during=rates[1],
        after=rates[2],
        refused_before=refused[0],
        refused_during=refused[1],
        refused_after=refused[2],
        refused_until=max(0.0, last - ends),
    )
