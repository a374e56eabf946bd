"""Fair queueing limits the number of jobs that each client may hold, and selects the client whose job is evicted.

A client *holds* its queued and running jobs. The decisions depend on how many jobs each client holds, and on each
client's recent use of the pool. No client holds more than twice an equal share, and clients with less recent use are
served first. Both rules come from fair queueing in networks (Demers, Keshav and Shenker, "Analysis and Simulation of a
Fair Queueing Algorithm", 1989). Past use decays, so a burst does not count against a client for long.

A high priority helps a client only within its share. A client's jobs beyond its share have no precedence over other
clients' jobs within their shares, whatever the priorities are. Therefore, a client that sends a flood of requests of
the highest priority does not starve the other clients.

Some functions of this module are called for every rejected request, so their run time must not depend on the number of
clients. Therefore, at most `LOOKED_AT` clients are compared, and the clients to discard are at one end of an ordered
dictionary.
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
    """The record of one client: how many jobs it holds, its recent use, and when it was last admitted and served."""

    __slots__ = ("at", "held", "last_served", "use")

    def __init__(self) -> None:
        self.held = self.last_served = 0
        self.use = self.at = 0.0


class _Waiting:
    """The clients that have queued jobs of one priority, grouped by the number of these jobs."""

    __slots__ = ("_by_number", "most", "numbers")

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}
        self.most = 0
        """Largest number of queued jobs of one client."""
        self._by_number: list[dict[Hashable, None]] = [{}]

    def with_most(self) -> Iterable[Hashable]:
        """Return the clients that have the largest number of queued jobs."""
        return self._by_number[self.most]

    def change(self, key: Hashable, difference: int) -> None:
        """Add `difference`, which is 1 or -1, to the number of queued jobs of a client."""
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
    """The records of an overloaded pool's clients. Times are in seconds on a monotonic clock.

    A client whose requests are all rejected has no record. Therefore, the number of records hardly exceeds the number
    of jobs that were admitted in the last half minute.
    """

    LEAST: Final = 2
    """Number of queued and running jobs that each client may always have, however many other clients there are."""
    SHARES: Final = 2
    """Maximum number of queued and running jobs of a client, as a multiple of an equal share of the concurrency
    limit."""
    MEMORY_SECONDS: Final = 5.0
    """Age in seconds at which past use has a weight of 1/e."""
    KEPT_SECONDS: Final = 7 * MEMORY_SECONDS
    """Age in seconds at which past use is discarded; its weight is then about 1/1000."""
    LOOKED_AT: Final = 16
    """Maximum number of clients that are compared to select the client whose job is evicted."""
    _REBASED_AFTER: Final = 400 * MEMORY_SECONDS
    """Seconds after which the weights are rebased, so that they do not overflow a float. By then, one job has a weight
    of 5e173; the largest float is 1.8e308."""

    def __init__(self, now: float) -> None:
        self._clients = OrderedDict[Hashable, _Client]()
        """Clients, ordered by the time when their last job was admitted, the earliest first."""
        self.active = 0
        """Number of clients with queued or running jobs."""
        self._waiting = tuple(_Waiting() for _ in Priority)
        self._turns = 0
        self._base = now
        """Time at which a job has the weight 1. The weights of earlier jobs are never reduced; instead, later jobs get
        larger weights (forward decay, Cormode and others, ICDE 2009). Therefore, the recorded use of two clients can be
        compared directly."""

    def __repr__(self) -> str:
        return f"<Clients {self.active} active, {len(self._clients)} known>"

    def _weight(self, now: float) -> float:
        """Return the weight of a job admitted now."""
        return math.exp((now - self._base) / self.MEMORY_SECONDS)

    # Events of jobs.

    def admit(self, key: Hashable, priority: Priority, now: float) -> None:
        """Record that a job of this client has been queued."""
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
        """Record that a queued job has been started."""
        self._waiting[priority].change(key, -1)
        self.mark_served(key)

    def end(self, key: Hashable, priority: Priority, *, began: bool) -> None:
        """Record that a job has left the pool; a job that was queued but never started also counts as use.

        Therefore, a client whose flood fills the queue immediately has more use than other clients, although the pool
        has not yet run more of its jobs.
        """
        client = self._clients[key]
        client.held -= 1
        if not client.held:
            self.active -= 1
        if not began:
            self._waiting[priority].change(key, -1)

    def forget(self, now: float) -> None:
        """Remove clients without jobs whose last job was admitted over `KEPT_SECONDS` ago; call this periodically."""
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

    # Decisions about clients.

    @property
    def several(self) -> bool:
        """True if more than one client has queued or running jobs."""
        return self.active > 1

    def last_served(self, key: Hashable) -> int:
        """Return the sequence number of the last time the client was served; 0 if it was never served."""
        return self._clients[key].last_served

    def mark_served(self, key: Hashable) -> None:
        """Record that a job of this client has been chosen to run next."""
        self._turns += 1
        self._clients[key].last_served = self._turns

    def may_hold(self, key: Hashable, limit: int) -> bool:
        """Return whether this client may have one more job, if `limit` jobs may run at the same time.

        The result is always True while no other client has queued or running jobs.
        """
        client = self._clients.get(key)
        if client is None or client.held < self.LEAST or not self.others(key):
            return True
        return client.held < self._share(limit, self.active)

    def _share(self, limit: int, active: int) -> float:
        return max(self.LEAST, self.SHARES * limit / active)

    def beyond_share(self, key: Hashable, limit: int) -> bool:
        """Return whether this client exceeds its share by at least one job; `limit` jobs may run at the same time."""
        client = self._clients.get(key)
        return client is not None and self.others(key) and client.held - 1 >= self._share(limit, self.active)

    def others(self, key: Hashable) -> bool:
        """Return whether any other client has queued or running jobs."""
        client = self._clients.get(key)
        return self.active > (1 if client is not None and client.held else 0)

    def eviction_candidate(self, key: Hashable, priority: Priority, now: float) -> Hashable | None:
        """Return a client whose newest queued job of this priority may be evicted for a new job; None if there is none.

        `key` is the client of the new job. The returned client is the one with the most queued jobs; among clients with
        equally many queued jobs, it is the one with the most use. Even if the new job counts as queued, `key` has fewer
        queued jobs than the returned client, or equally many and less use. Otherwise, two clients could keep evicting
        each other's jobs.
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
        """Return a client and a priority; the client's newest queued job of this priority may be evicted for a new job.

        The new job belongs to the client `key`, and its `priority` is lower than the returned priority. The returned
        client exceeds its share by at least one job, so it cannot evict the new job in return. `limit` jobs may run at
        the same time. Returns None if no client's job may be evicted.
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
    """Return the indices of requests in fair order; `clients` has the client of each request, the oldest request first.

    The order begins with the oldest request of each client, followed by the second oldest of each client, and so on.
    """
    earlier = Counter[Hashable]()
    ranks = []
    for client in clients:
        ranks.append(earlier[client])
        earlier[client] += 1
    return sorted(range(len(clients)), key=ranks.__getitem__)
