"""How much of a full pool one client may hold, and which client has to make room.

Decides from what each client holds and has had of late. It must not know what a client is told by, jobs or queues.

Two rules, as in the fair queueing of networks (Demers, Keshav and Shenker, "Analysis and Simulation of a Fair Queueing
Algorithm", 1989): nobody holds more than twice an equal share, and whoever has had less goes before whoever has had
more. What a client has had is forgotten with time, so that a burst is not held against it for long.

A class helps a client within its share only: jobs beyond it have no precedence over those that others hold within
theirs, whatever the classes. So a client that floods the highest class does not starve the others.

Some of it is asked for every request that is refused, so nothing takes longer where there are more clients, and what is
forgotten is taken from one end.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain, islice
from typing import Final

from ..priority import Priority

__all__ = ["Clients", "in_rotation"]


class _Client:
    """What one client holds now, what it has had of late, and when its last job came and which turn was its last."""

    __slots__ = ("at", "held", "last_turn", "use")

    def __init__(self) -> None:
        self.held = self.last_turn = 0
        self.use = self.at = 0.0


class _Waiting:
    """The clients of a class by the number of jobs that each has waiting."""

    __slots__ = ("_by_number", "most", "numbers")

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}
        self.most = 0
        """What the one that has most waiting has."""
        self._by_number: list[dict[Hashable, None]] = [{}]

    def with_most(self) -> Iterable[Hashable]:
        return self._by_number[self.most]

    def change(self, key: Hashable, difference: int) -> None:
        number = self.numbers.pop(key, 0)
        self._by_number[number].pop(key, None)
        number += difference
        if number:
            self.numbers[key] = number
            if number == len(self._by_number):
                self._by_number.append({})
            self._by_number[number][key] = None
        self.most = max(self.most, number)
        while self.most and not self._by_number[self.most]:
            self.most -= 1


class Clients:
    """The clients of a pool that more is asked of than it can do. Times are seconds of a clock that never goes back.

    What is kept is bounded by what was admitted in the last half minute: a client that was refused leaves no trace.
    """

    LEAST: Final = 2
    """Jobs that each client may hold, however many clients there are."""
    SHARES: Final = 2
    """How many equal shares of the jobs that may run a client may hold."""
    MEMORY_SECONDS: Final = 5.0
    """After so long, what a client has had counts for 1/e."""
    KEPT_SECONDS: Final = 7 * MEMORY_SECONDS
    """After so long there is no trace of what it has had, which would count for 1/1000."""
    LOOKED_AT: Final = 16
    """Among how many of those with most jobs waiting the one is chosen that has to make room."""
    _REBASED_AFTER: Final = 400 * MEMORY_SECONDS
    """A job then counts 5e173, and a float holds 1.8e308."""

    def __init__(self, now: float) -> None:
        self._clients = OrderedDict[Hashable, _Client]()
        """The one whose last job came first is the first."""
        self.active = 0
        """How many clients hold a job."""
        self._waiting = tuple(_Waiting() for _ in Priority)
        self._turns = 0
        self._base = now
        """What is had at this instant counts 1, and later more, instead of what was had earlier less (forward decay:
        Cormode and others, ICDE 2009); so nothing has to be decayed to be compared."""

    def __repr__(self) -> str:
        return f"<Clients {self.active} active, {len(self._clients)} known>"

    def _weight(self, now: float) -> float:
        """Return what one job at this instant counts."""
        return math.exp((now - self._base) / self.MEMORY_SECONDS)

    # What happens to their jobs.

    def admit(self, key: Hashable, priority: Priority, now: float) -> None:
        """A job of this client has a place and waits."""
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = _Client()
        if not client.held:
            self.active += 1
        client.held += 1
        client.use += self._weight(now)
        client.at = now
        self._clients.move_to_end(key)
        self._waiting[priority].change(key, 1)

    def begin(self, key: Hashable, priority: Priority) -> None:
        """A job that was waiting is run."""
        self._waiting[priority].change(key, -1)
        self.take_turn(key)

    def end(self, key: Hashable, priority: Priority, *, began: bool) -> None:
        """A job is gone. One that never began counts as something the client has had: it has had a place.

        So who floods is told from who does not as soon as the queue is full, long before one has had more turns.
        """
        client = self._clients[key]
        client.held -= 1
        if not client.held:
            self.active -= 1
        if not began:
            self._waiting[priority].change(key, -1)

    def forget(self, now: float) -> None:
        """Drop those that hold nothing and have had nothing for long; to be called now and then."""
        old = now - self.KEPT_SECONDS
        while self._clients:
            key, client = next(iter(self._clients.items()))
            if client.at > old:
                break
            del self._clients[key]
            if client.held:
                client.at = now
                self._clients[key] = client
        if now - self._base > self._REBASED_AFTER:
            self._rebase(now)

    def _rebase(self, now: float) -> None:
        weight = self._weight(now)
        for client in self._clients.values():
            client.use /= weight
        self._base = now

    # What follows from it.

    @property
    def several(self) -> bool:
        """Whether more than one client holds a job."""
        return self.active > 1

    def last_turn(self, key: Hashable) -> int:
        """Return the number of the client's last turn, 0 if it has had none."""
        return self._clients[key].last_turn

    def take_turn(self, key: Hashable) -> None:
        """A job of this client was chosen before those of the others."""
        self._turns += 1
        self._clients[key].last_turn = self._turns

    def may_hold(self, key: Hashable, limit: int) -> bool:
        """Say whether this client may have one more job, where `limit` jobs may run at the same time.

        A client that is the only one takes nothing from anybody.
        """
        client = self._clients.get(key)
        if client is None or client.held < self.LEAST or not self.others(key):
            return True
        return client.held < self._share(limit, self.active)

    def _share(self, limit: int, active: int) -> float:
        return max(self.LEAST, self.SHARES * limit / active)

    def beyond_share(self, key: Hashable, limit: int) -> bool:
        """Say whether this client holds at least one job more than it may where `limit` jobs may run."""
        client = self._clients.get(key)
        return client is not None and self.others(key) and client.held - 1 >= self._share(limit, self.active)

    def others(self, key: Hashable) -> bool:
        """Say whether any other client holds a job."""
        client = self._clients.get(key)
        return self.active > (1 if client is not None and client.held else 0)

    def makes_room(self, key: Hashable, priority: Priority, now: float) -> Hashable | None:
        """Return the client whose newest waiting job of a class a new one of this client may replace; None if none.

        It is one that has most jobs waiting, and of those that have equally many one that has had most. It makes room
        if it takes more than the other will with the new job, so that nobody takes a place back.
        """
        waiting = self._waiting[priority]
        number = waiting.numbers.get(key, 0) + 1
        if number > waiting.most:
            return None
        other = max(islice(waiting.with_most(), self.LOOKED_AT), key=lambda key: self._clients[key].use)
        client = self._clients.get(key)
        use = (client.use if client is not None else 0.0) + self._weight(now)
        return other if (number, use) < (waiting.most, self._clients[other].use) else None

    def makes_room_below(self, key: Hashable, priority: Priority, limit: int) -> tuple[Hashable, Priority] | None:
        """Return the client, and the higher class, whose newest waiting job one of this client may replace; or None.

        That client holds so much that it may not have the place back; `limit` jobs may run at the same time.
        """
        client = self._clients.get(key)
        share = self._share(limit, self.active + (client is None or not client.held))
        for number in range(priority - 1, -1, -1):
            waiting = self._waiting[number]
            for other in islice(chain(waiting.with_most(), waiting.numbers), self.LOOKED_AT):
                if other != key and self._clients[other].held - 1 >= share:
                    return other, Priority(number)
        return None


def in_rotation(clients: Sequence[Hashable]) -> list[int]:
    """Return the indices of requests, given by their clients from the oldest on, in the order of equal shares.

    First is the oldest request of each client, then the second of each, and so on.
    """
    earlier = Counter[Hashable]()
    ranks = []
    for client in clients:
        ranks.append(earlier[client])
        earlier[client] += 1
    return sorted(range(len(clients)), key=ranks.__getitem__)
