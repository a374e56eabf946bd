"""The overload scenarios: their loads, events and goals. The goals are judged by what the clients saw."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..common.report import percentile
from .applications import CONNECTIONS, PIN_SECONDS
from .generator import Stream
from .seen import ANSWERED, REFUSED, TENTH, End
from .serving import WORKLOADS

_WRITTEN: Final[Mapping[str, Callable[[float], str]]] = {
    "ms": lambda value: f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms",
    "%": lambda value: f"{value:.2f} %".replace(".00 ", " "),
    "times": lambda value: f"{value:.2f} times",
    "": lambda value: f"{value:,.0f}",
}


@dataclass(frozen=True)
class Goal:
    """One goal of a scenario or workload, with its result."""

    what: str
    figure: float | None
    """The measured figure; None if the expected state never occurred, or there is no data."""
    goal: float
    unit: str
    """The unit of the figure: "ms", "%", "times", or empty for a count."""
    at_least: bool = False
    """True if the goal is a minimum; otherwise it is a maximum."""
    remark: str = ""

    @property
    def reached(self) -> bool:
        """True if the goal is reached."""
        if self.figure is None:
            return False
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal

    @property
    def sentence(self) -> str:
        """The goal's line in the report."""
        write = _WRITTEN[self.unit]
        figure = "never" if self.figure is None else write(self.figure)
        bound = f"at {'least' if self.at_least else 'most'} {write(self.goal)}"
        sentence = f"{'reached' if self.reached else 'not reached'}: {self.what}: {figure} (goal: {bound})"
        return f"{sentence}; {self.remark}" if self.remark else sentence


_WELL_SECONDS: Final = 1.0
"""Seconds for which the figures must be normal before the server counts as recovered."""
_MILLISECONDS: Final = 1000


class Span(NamedTuple):
    """A period, in seconds from the beginning of the run."""

    begin: float
    end: float


class Workers(NamedTuple):
    """A sample of the number of workers that accept jobs; its time is in seconds from the beginning of the run."""

    at: float
    number: int


@dataclass(frozen=True)
class Observed:
    """All observations of one run of a scenario."""

    phases: Mapping[str, Span]
    ends: Mapping[str, Sequence[End]]
    """Requests as their clients saw them, by stream name; an attempt and its retries are one request."""
    workers: Sequence[Workers] = ()
    """Samples of the number of workers, sorted by time; empty unless the scenario is watched."""

    def within(self, name: str, span: Span) -> list[End]:
        """Return the results of a stream's requests that were due in this period."""
        return [end for end in self.ends[name] if span.begin <= end.due < span.end]

    def during(self, name: str, phase: str) -> list[End]:
        """Return the results of a stream's requests that were due in this phase."""
        return self.within(name, self.phases[phase])


def p(percent: float, ends: Sequence[End]) -> float | None:
    """Return a latency percentile of the requests that were not rejected, in ms; None if all were rejected."""
    found = percentile(sorted(end.after for end in ends if end.admitted), percent)
    return None if found is None else found * _MILLISECONDS


def useful_share(ends: Sequence[End]) -> float:
    """Return the share of requests, from 0 to 1, that were answered in time; 1 if there are no requests."""
    return sum(end.useful for end in ends) / len(ends) if ends else 1.0


def answered_share(ends: Sequence[End]) -> float | None:
    """Return the percentage of requests that were answered, however late; None if there are no requests."""
    return sum(end.kind == ANSWERED for end in ends) / len(ends) * 100 if ends else None


def well_after(observed: Observed, name: str, phase: str, well: Callable[[list[End]], bool]) -> float | None:
    """Return the milliseconds from the start of a phase until `well` holds; None if it never holds.

    `well` must hold both for the next second and for the whole rest of the phase. Either alone can be chance: a good
    second amid bad ones, or a good rest that begins with a bad second.
    """
    begin, end = observed.phases[phase]
    for tenth in range(int((end - begin - _WELL_SECONDS) / TENTH + 1e-9) + 1):
        since = begin + tenth * TENTH
        spans = (Span(since, since + _WELL_SECONDS), Span(since, end))
        if since + _WELL_SECONDS <= end + 1e-9 and all(well(observed.within(name, span)) for span in spans):
            return round(tenth * TENTH * _MILLISECONDS, 3)
    return None


_USEFUL: Final = 0.95
_BURST_P99_TIMES: Final = 1.5
"""Maximum ratio of a normal p99 to the p99 before the burst. One second has few requests, so its p99 varies."""
_PINNED_TIMES: Final = 1.1
_QUIET_TIMES: Final = 2.0
_ANSWERED: Final = 99.9
_INVERSION_SECONDS: Final = 0.1
SLOTS: Final = 5
"""Number of slots per worker in the step scenarios."""
STEP_WORKERS: Final = 8
_STEP_SHARE: Final = 0.9


def burst(observed: Observed) -> Iterator[Goal]:
    """Require normal p99 and goodput soon after the burst. A server that rejects everything has a good p99."""
    before = observed.during("all", "before")
    normal, useful = p(99, before), useful_share(before)

    def well(ends: Sequence[End]) -> bool:
        now = p(99, ends)
        quick = now is not None and normal is not None and now <= _BURST_P99_TIMES * normal
        return quick and useful_share(ends) >= _USEFUL * useful

    what = f"p99 at most {_BURST_P99_TIMES:g} times and goodput at least {_USEFUL:.0%} of that before the burst"
    yield Goal(f"after the burst, {what}, after", well_after(observed, "all", "after", well), 500, "ms")


def stall(observed: Observed) -> Iterator[Goal]:
    """Require that nearly all requests are useful again soon after the stall."""
    after = well_after(observed, "all", "after", lambda ends: useful_share(ends) >= _USEFUL)
    yield Goal(f"after the stall, {_USEFUL:.0%} of the requests answered in time, after", after, 2000, "ms")


def pinned(observed: Observed) -> Iterator[Goal]:
    """Require that a pinned job does not affect other requests."""
    times = ratio(p(95, observed.during("others", "pinned")), p(95, observed.during("others", "before")))
    yield Goal("the others' p95 while a job is pinned, over that before", times, _PINNED_TIMES, "times")


def quiet(observed: Observed) -> Iterator[Goal]:
    """Require that the quiet client gets its responses nearly as fast as without the other clients."""
    alone, beside = observed.during("quiet", "alone"), observed.during("quiet", "flooded")
    yield Goal("the quiet client's requests answered beside the floods", answered_share(beside), _ANSWERED, "%", True)
    yield Goal("its p99 beside them, over that alone", ratio(p(99, beside), p(99, alone)), _QUIET_TIMES, "times")


def spike(observed: Observed) -> Iterator[Goal]:
    """Require that critical requests are answered, and never rejected while a sheddable request is admitted."""
    critical, sheddable = (observed.during(name, "spike") for name in ("critical", "sheddable"))
    yield Goal("critical requests answered in the spike", answered_share(critical), _ANSWERED, "%", True)
    what = f"critical requests refused although a sheddable one sent up to {_INVERSION_SECONDS * 1000:.0f} ms later"
    yield Goal(f"{what} was answered", inversions(critical, sheddable), 0, "")


def inversions(critical: Sequence[End], sheddable: Sequence[End]) -> int:
    """Count critical requests that were rejected although a sheddable request, sent soon after, was answered.

    Sheddable requests sent much later do not count, because the server could have free capacity by then.
    """
    sent = sorted(end.due + end.late for end in sheddable if end.kind == ANSWERED)
    refused = [end.due + end.late for end in critical if end.kind == REFUSED]
    return sum(bisect_left(sent, instant) < bisect_left(sent, instant + _INVERSION_SECONDS) for instant in refused)


def step(observed: Observed) -> Iterator[Goal]:
    """Require that the server adds slots soon, and loses little goodput until then."""
    begin, _ = observed.phases["step"]
    needed = _STEP_SHARE * STEP_WORKERS * SLOTS
    there = next((each.at for each in observed.workers if each.at >= begin and each.number * SLOTS >= needed), None)
    after = None if there is None else (there - begin) * _MILLISECONDS
    yield Goal(f"{_STEP_SHARE:.0%} of the slots of {STEP_WORKERS} workers are there after", after, 500, "ms")
    lost = (1 - useful_share(observed.during("all", "step"))) * 100
    yield Goal("goodput lost over the step", lost, 2, "%")


def step_cpu(observed: Observed) -> Iterator[Goal]:
    """Require that the server adds no workers under CPU-bound load, because they would share one core."""
    begin, end = observed.phases["step"]
    before = [each.number for each in observed.workers if each.at < begin]
    during = [each.number for each in observed.workers if begin <= each.at < end]
    added = max(during) - before[-1] if before and during else None
    yield Goal("workers added", added, 1, "")


def ratio(value: float | None, other: float | None) -> float | None:
    """Return the ratio of two figures, or None if either is unknown."""
    return value / other if value is not None and other else None


@dataclass(frozen=True)
class Scenario:
    """A sequence of load phases, and the goals for a run of this sequence."""

    name: str
    title: str
    """Short title above the chart."""
    about: str
    """Description of the load, in one sentence."""
    phases: Mapping[str, float]
    """Duration of each phase in seconds, in order. The first phase lets the server start, and does not count."""
    streams: Sequence[Stream]
    judge: Callable[[Observed], Iterable[Goal]]
    slots: int = 0
    """Limit of concurrent requests, for servers with such a limit; 0 means the server's default."""
    flags: Sequence[str] = ()
    """Additional flags of our server; other servers get none."""
    stalled: str | None = None
    """Name of the phase in which the database stalls, or None."""
    pinned: str | None = None
    """Name of the phase in which a job is pinned, or None."""
    watched: bool = False
    """True if the run samples the number of workers; only our server can then run the scenario."""


_DB: Final = {"/db": 1.0}
_DB_CAPACITY: Final = WORKLOADS["db"].capacity

# Names and flags that scenarios add for our server.
_CLIENT: Final = "X-Client"
_BY_CLIENT: Final = ("--client-key", _CLIENT)
_BULK: Final = "/bulk"
_SHED_BULK_FIRST: Final = ("--routes", f"{_BULK} priority=sheddable")
_LONG_PINS: Final = ("--routes", "/pin request_timeout_seconds=30")
_ONE_BY_ONE: Final = ("--worker-group-size", "1", "--max-concurrent-per-router", str(SLOTS))

_WARM_UP: Final = 2.0
_FLOODS: Final = 16
# At this rate, one worker with five slots suffices: its slots are at most 70 % busy.
_ONE_WORKER_RATE: Final = 60.0
_EIGHT_WORKERS_RATE: Final = STEP_WORKERS * SLOTS * 0.65 / 0.050


def _times_db(*loads: float) -> list[float]:
    return [load * _DB_CAPACITY for load in loads]


def _step(name: str, title: str, path: str, judge: Callable[[Observed], Iterable[Goal]]) -> Scenario:
    stream = Stream("all", {path: 1.0}, [_ONE_WORKER_RATE, _ONE_WORKER_RATE, _EIGHT_WORKERS_RATE])
    phases = {"warm-up": _WARM_UP, "before": 5.0, "step": 5.0}
    about = f"`{path}`, from the need of one worker to what would be that of {STEP_WORKERS} if it only waited 50 ms"
    return Scenario(name, title, about, phases, [stream], judge, flags=_ONE_BY_ONE, watched=True)


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "burst",
            "A burst",
            "`db` at 0.8, then 5, then 0.8 times its capacity",
            {"warm-up": _WARM_UP, "before": 10.0, "burst": 5.0, "after": 10.0},
            [Stream("all", _DB, _times_db(0.8, 0.8, 5.0, 0.8))],
            burst,
            slots=CONNECTIONS,
        ),
        Scenario(
            "stall",
            "A stall of the database",
            "`db` at 0.9 times its capacity; it stalls, and clients ask again up to three times, at once",
            {"warm-up": _WARM_UP, "before": 5.0, "stall": 10.0, "after": 15.0},
            [Stream("all", _DB, _times_db(0.9, 0.9, 0.9, 0.9), retries=3)],
            stall,
            slots=CONNECTIONS,
            stalled="stall",
        ),
        Scenario(
            "pinned",
            "A pinned job",
            "`db` at 0.3 times its capacity; one job keeps its slot and its connection",
            {"warm-up": _WARM_UP, "before": PIN_SECONDS, "pinned": PIN_SECONDS},
            # The load is low: at half the capacity, the loss of one connection in ten would itself raise the p95.
            [Stream("others", _DB, _times_db(0.3, 0.3, 0.3))],
            pinned,
            slots=CONNECTIONS,
            flags=_LONG_PINS,
            pinned="pinned",
        ),
        Scenario(
            "quiet",
            "A quiet client among floods",
            f"`db`, a client at 5 % of its capacity beside {_FLOODS} that send ten times its capacity together",
            {"warm-up": _WARM_UP, "alone": 10.0, "flooded": 30.0},
            [
                Stream("quiet", _DB, _times_db(0.05, 0.05, 0.05), {_CLIENT: "quiet"}, even=True),
                *(
                    Stream("floods", _DB, _times_db(0.0, 0.0, 10.0 / _FLOODS), {_CLIENT: f"flood-{number}"})
                    for number in range(1, _FLOODS + 1)
                ),
            ],
            quiet,
            slots=CONNECTIONS,
            flags=_BY_CLIENT,
        ),
        Scenario(
            "spike",
            "A spike of what is sheddable",
            "`db`, critical requests at 0.6 times its capacity, while sheddable ones go from 0.3 to 12 times and back",
            {"warm-up": _WARM_UP, "before": 5.0, "spike": 10.0, "after": 5.0},
            [
                Stream("critical", _DB, _times_db(0.6, 0.6, 0.6, 0.6)),
                Stream("sheddable", {_BULK: 1.0}, _times_db(0.3, 0.3, 12.0, 0.3)),
            ],
            spike,
            slots=CONNECTIONS,
            flags=_SHED_BULK_FIRST,
        ),
        _step("step", "A step of waiting", "/wait", step),
        _step("step-cpu", "A step of computing", "/cpu", step_cpu),
    )
}
"""The scenarios by name, in the order of their runs."""
