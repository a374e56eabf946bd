"""Whether waiting jobs wait too long, and which of them to shed: CoDel, in the form for servers.

Decides from waiting times, service times and the clock's times that come in. It must not know jobs or queues.

A queue that empties now and then has done its work: it took in a burst. One whose shortest wait stays long is standing:
it adds the same delay to everybody and helps nobody. So what counts is the least wait: once none has been short for an
interval, and until one is, only as many may wait as soon have their turn. Of those that wait by then, the ones behind
are shed, and any that has waited twice as long as that would take: who would be refused anyway is refused at once.

CoDel is by Nichols and Jacobson ("Controlling Queue Delay", ACM Queue 10(5), 2012); its 5 ms and 100 ms are the least
values here. To shed by age, once and for all beyond twice a time, is Facebook's way ("Fail at Scale", ACM Queue 13(8),
2015, and folly's `Codel`); there the time is the target, and most learn late that they were in vain. The target grows
with the service time: where jobs take 50 ms in ten slots, one is begun every 5 ms, and a wait of two such turns is no
queue yet.
"""

from __future__ import annotations

import math
from typing import Final

from .servicetime import ServiceTime

__all__ = ["QueueDelay"]


class QueueDelay:
    """Watches the waits of the jobs of one pool, in the order in which they leave their queues.

    Times are seconds of one clock that never goes back.
    """

    LEAST_TARGET: Final = 0.005
    LEAST_HUB_TARGET: Final = 0.04
    """The same where slots are free, and jobs wait for the event loop only. Clients that ask again as soon as they are
    answered then always find the work of the others before theirs: ten of them with 3 ms each wait for 30 ms, which
    harms nobody, and is no reason to refuse one."""
    LEAST_INTERVAL: Final = 0.1
    INTERVAL_TARGETS: Final = 20
    """How many targets an interval lasts at least."""
    TURNS: Final = 2
    """How many times a slot becomes free within the target."""

    ROOM: Final = 4
    """For how many targets jobs may be waiting while a queue is known to stand."""
    ROOM_AT_LOOP: Final = 2
    """The same where they wait for the event loop."""
    ROOM_SERVICES: Final = 2
    """The same in mean service times, where they wait for slots; or for as long as those that run will run on, if a few
    take so much longer than the rest."""
    MOST_ROOM: Final = 3
    """How many times as much room there is where hardly more arrives than can be done: the queue keeps the slots busy
    in moments when fewer come, and the less is turned away, the longer these are. Simulated with ten slots at 1.0 times
    their capacity, of what can be done 99 % is answered within 500 ms with service times of 50 ms, 98 % where these are
    exponential, 95 % with 5 ms and 300 ms for every twentieth; without more room 97, 96 and 92 %."""
    SELDOM: Final = 4
    """So much room, within that, that the queue is empty in exp(-4) of the time, 2 %. Where arrivals are random,
    `excess` of them are turned away for each that is run, and x turns of them may wait, that is exp(-2 x excess / (1 +
    variation)): the diffusion approximation for heavy traffic (Kingman, "The single server queue in heavy traffic",
    1961), here with the drift towards the bound."""
    SLOUGH: Final = 2
    """How many times as long as that a job may have waited by the time a queue is found to stand."""
    WARY_TARGETS: Final = 5
    """How many targets an interval lasts soon after a standing queue. With fewer, bursts at 0.8 times the capacity are
    taken for another; in the same simulation 2 targets shed 1 % there, and 5 half of that."""
    MEMORY_INTERVALS: Final = 16
    """For so many intervals after a standing queue the next one is recognized sooner (RFC 8289, 5.4)."""

    def __init__(self) -> None:
        self.standing = False
        """Whether no wait has been short for an interval, nor since."""
        self.target = self.LEAST_TARGET
        self.room = 1
        """How many jobs may wait while there is a standing queue."""
        self.longest = 0.0
        """For how long so many have to wait, in seconds."""
        self._turned_away = self._turned_away_before = False
        """Whether more have come than had room, in this interval and in the one before."""
        self._long_wait = False
        """Whether one has waited longer than the target since the interval began."""
        self._turn = 0.0
        """How often a slot becomes free, in seconds."""
        self._length = self.LEAST_INTERVAL
        self._began = -math.inf
        self.ends = -math.inf
        """When the present interval is over."""
        self._wary_until = -math.inf
        self._since = -math.inf
        """When the queue was last found to stand."""

    def __repr__(self) -> str:
        state = "a standing queue" if self.standing else "no standing queue"
        return f"<QueueDelay {state}, target {self.target * 1000:.1f} ms>"

    @property
    def interval(self) -> float:
        """How long the least wait must stay above the target for a queue to be taken for a standing one, in seconds."""
        return max(self.LEAST_INTERVAL, self.INTERVAL_TARGETS * self.TURNS * self._turn)

    def judge(
        self,
        now: float,
        service: ServiceTime,
        running: int,
        oldest: float = 0.0,
        *,
        slots_free: bool = False,
        excess: float = math.inf,
    ) -> None:
        """Judge the interval that is over, at `ends` or later, and begin the next.

        Before any job has ended nobody knows what a long wait is, and the first requests after a start are not shed.
        `running` is how many jobs run at the time: not how many may, for jobs that compute run one by one, however many
        slots there are. `oldest` is for how long the first that waits has been waiting: in an interval without any turn
        that is what counts. `slots_free` says that jobs wait for the event loop, not for a slot; `excess` how many are
        turned away for each that is run.
        """
        self._long_wait = self._long_wait or oldest >= self.interval
        self._judge(now, known=service.mean > 0)
        self._began = now
        self.adapt(service, running, slots_free=slots_free, excess=excess)

    def adapt(self, service: ServiceTime, running: int, *, slots_free: bool = False, excess: float = math.inf) -> None:
        """Go by these figures from now on, in the present interval too: when many jobs come at once, more run soon."""
        turn = self._turn = service.mean / max(1, running)
        self.target = max(self.LEAST_HUB_TARGET if slots_free else self.LEAST_TARGET, self.TURNS * turn)
        if slots_free:
            least = self.ROOM_AT_LOOP * self.target
        else:
            least = max(self.ROOM * self.target, self.ROOM_SERVICES * service.mean, service.residual)
        seldom_empty = self.SELDOM * (1 + service.variation) / (2 * max(excess, 1e-9)) * turn
        self.longest = min(self.MOST_ROOM * least, max(least, seldom_empty))
        self.room = max(1, int(self.longest / turn)) if turn else 1
        wary = self._began < self._wary_until
        self._length = self.WARY_TARGETS * self.target if wary else self.interval
        self.ends = self._began + self._length

    def sheds(self, now: float, waited: float, others_wait: bool, oldest: float = 0.0) -> bool:
        """Take note of a job that would be run now, and say whether it is shed instead.

        The only one that waits is never shed. `oldest` is for how long the first that waits has been waiting, where
        jobs do not leave in the order in which they came: the short wait of one that went before it proves nothing.
        """
        if waited > self.target or oldest > self.target:
            self._long_wait = True
            return others_wait and self.overdue(now, waited)
        if not (self._turned_away or self._turned_away_before):
            self.standing = self._long_wait = False
            self._began = now
            self.ends = now + self._length
        return False

    def full(self, waiting: int) -> bool:
        """Say whether one more job has no room behind so many, as there is a standing queue.

        As long as some are turned away the queue is taken for a standing one: it is short only because of that.
        """
        if not self.standing or waiting < self.room:
            return False
        self._turned_away = True
        return True

    def overdue(self, now: float, waited: float) -> bool:
        """Say whether a job has waited too long, as the queue was found to stand."""
        return self.found(now, waited) and waited > self.SLOUGH * self.longest

    def found(self, now: float, waited: float) -> bool:
        """Say whether a job waited already when the queue was found to stand: one let in later has its room."""
        return self.standing and now - waited < self._since

    def restart(self) -> None:
        """Forget what was: there are more slots now, and they work off what waits."""
        self.standing = self._turned_away = self._turned_away_before = False
        self._long_wait = False
        self._began = self.ends = -math.inf

    def _judge(self, now: float, known: bool) -> None:
        quiet = now - self.ends > self.interval
        waits = self._long_wait and not quiet
        stood, self.standing = self.standing, known and (waits or (self.standing and self._turned_away))
        if self.standing and not stood:
            self._since = now
        if self.standing:
            self._wary_until = now + self.MEMORY_INTERVALS * self.interval
        self._turned_away_before, self._turned_away = self._turned_away, False
        self._long_wait = False
