"""A storm: in one balancer with one driver's sessions, some jobs are aborted at random times, among normal jobs.

    python -m gevent.monkey tests/services/storm.py SCENARIO [--aborted 1000] [--normal 5000] [--seed N]

A storm prints a report as JSON. Its exit code is 0 even if it has found faults, which are in `report["faults"]`. It
checks that

- every normal job receives the answer to its question, and every other job is aborted while it runs (504);
- no session is used by two jobs at the same time, or after an abort;
- aborts were raised in each activity: connecting, sending, receiving, committing, and between calls;
- at the end every slot is alive: all slots answer a job at the same time;
- every submitted job has ended, and every opened session was closed or discarded;
- within one second of the drain, the database server reports no more connections of this run.

A scenario is a module in `scenarios/`. It must define:

`source(run: str) -> SessionSource`
    The sessions; `run` is unique to this run and should be passed to the server (`application_name`) for `connections`.
`work(session, question: Question, stage: Stage) -> tuple[int, int]`
    The work of a job: query the server for `question.number` and the length of `question.payload` (a string, mostly
    empty, sometimes megabytes), so that the server returns both, and return them. It should also write and commit
    something. Each statement belongs in `with stage("statement"):`, a commit in `with stage("commit"):`; code outside
    counts as between calls (`gevent.sleep(0.001)` there lets aborts land).
`linger(session) -> None`
    Wait in the server for at least 30 seconds (`select pg_sleep(30)`), for jobs that are not aborted earlier.
`connections(run: str) -> int`
    Return the number of this run's connections that the database server reports, without that of this query.

and may define:

`prepare(run: str)`, `clean(run: str)`
    Create and remove tables, before and after.
`verify(run: str, answered: list[int]) -> list[str]`
    Check after the drain what the jobs have left on the server, and return faults; `answered` contains the numbers of
    the questions that were answered.
`identity(session) -> object`
    Return the object that must not be shared, if it is not the session itself but the driver's connection in it.
`sending(traceback) -> bool`
    Return True if a statement was interrupted while it was sent; needed if the driver does not call a socket's `send`.
`PLACES: set[str]`
    Activities in which aborts must have been raised; by default, all activities.
`LARGE: int`
    Bytes of a large payload; six million by default. If the kernel's buffers hold all that can be sent in reasonable
    time, let the sessions of one worker use a `slowline.SlowLine`.
`SIZE: tuple[int, int]`
    Workers, and slots of each; 3 and 4 by default.

A scenario may import the modules in this directory. The servers' URLs are in os.environ["INTRALB_TEST_POSTGRESQL"],
["INTRALB_TEST_MARIADB"] and ["INTRALB_TEST_REDIS"]. A scenario need not patch: the process is patched before it is
imported.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event

from intralb_gevent import LoadBalancer, Options, SessionSource, current_session
from intralb_gevent.errors import Abort
from intralb_gevent.policy.deadline import ProxyTiming

PLACES = {"connect", "send", "receive", "commit", "between"}
SIZE = (3, 4)
LARGE = 6_000_000
PATIENCE = 30.0
UNAVAILABLE = "503 Service Unavailable"
"""Status of a job that was not run, or that has no session; the latter occurs only if the server is unavailable."""


@dataclass(frozen=True)
class Question:
    number: int
    payload: str
    aborted: bool

    @property
    def answer(self) -> tuple[int, int]:
        return self.number, len(self.payload)


class Stage:
    """The current activity of a job; after an exception, the innermost activity that it passed stays recorded."""

    def __init__(self) -> None:
        self.place = "between"

    @contextmanager
    def __call__(self, place: str) -> Iterator[None]:
        self.place = place
        yield
        self.place = "between"


class Watched(SessionSource):
    """A session source that counts calls, and passes them on to another source."""

    def __init__(self, inner: SessionSource) -> None:
        self.inner = inner
        self.counts: Counter[str] = Counter()
        self.gone: dict[int, object] = {}
        self.faults: list[str] = []

    def sized_for(self, sessions: int) -> None:
        self.inner.sized_for(sessions)

    def open(self, worker_id: int) -> Any:
        session = self.inner.open(worker_id)
        self.counts["opened"] += 1
        return session

    def check(self, session: Any) -> bool:
        self._expect_alive(session, "checked")
        return self.inner.check(session)

    def begin(self, session: Any, seconds: float) -> None:
        self._expect_alive(session, "begun")
        self.inner.begin(session, seconds)

    def reset(self, session: Any) -> None:
        self._expect_alive(session, "reset")
        self._counted("reset", self.inner.reset, session)

    def discard(self, session: Any) -> None:
        self._expect_alive(session, "discarded")
        self.gone[id(session)] = session
        self._counted("discarded", self.inner.discard, session)

    def close(self, session: Any) -> None:
        self._expect_alive(session, "closed")
        self.gone[id(session)] = session
        self._counted("closed", self.inner.close, session)

    def _counted(self, name: str, function: Callable[[Any], object], session: Any) -> None:
        self.counts[name] += 1
        try:
            function(session)
        except BaseException as error:
            self.faults.append(f"a session could not be {name}: {error!r}")
            raise

    def _expect_alive(self, session: Any, what: str) -> None:
        # Keep the sessions, so that the ids of their objects are not reused.
        if id(session) in self.gone:
            self.faults.append(f"a session was {what} after it was given up")


class Users:
    """The users of each connection; checks that two jobs never share a connection, and none is used after an abort."""

    def __init__(self) -> None:
        self.present: dict[int, int] = {}
        self.interrupted: dict[int, object] = {}
        self.faults: list[str] = []

    @contextmanager
    def using(self, thing: object, number: int) -> Iterator[None]:
        key = id(thing)
        if key in self.present:
            self.faults.append(f"{thing!r} is used by the jobs {number} and {self.present[key]} at once")
        if key in self.interrupted:
            self.faults.append(f"{thing!r} is used by the job {number} after an abort")
        self.present[key] = number
        try:
            yield
        except Abort:
            self.interrupted[key] = thing
            raise
        finally:
            self.present.pop(key, None)


def sending(tb: TracebackType) -> bool:
    """Return True if a socket's `send` was interrupted."""
    return any(frame.f_code.co_name in ("send", "sendall") for frame, _ in traceback.walk_tb(tb))


class Storm:
    def __init__(self, scenario: ModuleType, seed: int, aborted: int, normal: int) -> None:
        self.scenario = scenario
        self.workers, self.slots_each = getattr(scenario, "SIZE", SIZE)
        self.slots = self.workers * self.slots_each
        self.run = f"storm-{seed:x}-{time.time_ns() % 10**9:x}"
        self.generator = random.Random(seed)
        self.source = Watched(scenario.source(self.run))
        self.users = Users()
        self.landed: Counter[str] = Counter()
        self.answered: list[int] = []
        self.faults: list[str] = []
        self.statuses: Counter[str] = Counter()
        self.typical = 0.02
        self.questions = self._questions(aborted, normal)
        self.balancer = LoadBalancer(self.application, self._options())
        self.parked, self.go_on = 0, Event()

    def _questions(self, aborted: int, normal: int) -> list[Question]:
        kinds = [True] * aborted + [False] * normal
        self.generator.shuffle(kinds)
        large, rare = "x" * getattr(self.scenario, "LARGE", LARGE), self.generator.random
        return [Question(n, large if rare() < (0.2 if cut else 0.01) else "", cut) for n, cut in enumerate(kinds)]

    def _options(self) -> Options:
        size = {"max_workers": self.workers, "min_workers": self.workers, "max_concurrent_per_router": self.slots_each}
        return Options(**size, queue_size=100, request_timeout_seconds=PATIENCE, db_init_func=self.source)

    # In a slot.

    def application(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        question, stage = environ["storm.question"], Stage()
        try:
            answer = self._answer(question, stage)
        except Abort as abort:
            self.landed[self._place(stage, abort)] += 1
            raise
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]

    def _answer(self, question: Question, stage: Stage) -> tuple[int, int]:
        with stage("connect"):
            session = current_session()
        thing = getattr(self.scenario, "identity", lambda session: session)(session)
        with self.users.using(thing, question.number):
            answer = self.scenario.work(session, question, stage)
            if question.aborted:
                with stage("statement"):
                    self.scenario.linger(session)
        if question.number < 0:
            self._park()
        return answer

    def _park(self) -> None:
        """Occupy the slot until every slot is occupied."""
        self.parked += 1
        if self.parked == self.slots:
            self.go_on.set()
        self.go_on.wait()

    def _place(self, stage: Stage, abort: Abort) -> str:
        if stage.place != "statement":
            return stage.place
        function = getattr(self.scenario, "sending", sending)
        return "send" if function(abort.__traceback__) else "receive"

    # Outside of a slot.

    def ask(self, question: Question, left: float | None = None) -> tuple[str, bytes]:
        heads: list[str] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": f"/{question.number}", "storm.question": question}
        if left is not None:
            environ["intralb.proxy_timing"] = ProxyTiming(left=left)
        result = self.balancer(environ, lambda status, headers, exc_info=None: heads.append(status))
        try:
            return heads[-1], b"".join(result)
        finally:
            # A list has no close().
            getattr(result, "close", list)()

    def normal(self, question: Question) -> None:
        """Repeat the question until the job is run, because on a busy machine, a job can wait too long in the queue."""
        status, body = self.ask(question)
        while status == UNAVAILABLE:
            gevent.sleep(self.typical)
            status, body = self.ask(question)
        self.statuses[status] += 1
        if status != "200 OK" or tuple(json.loads(body)) != question.answer:
            self.faults.append(f"{question.answer} was answered with {status} {body!r}")
        self.answered.append(question.number)

    def aborted(self, question: Question) -> None:
        """Abort a job while it runs; if its deadline passes before it runs, repeat it with more time."""
        for attempt in range(1, 101):
            status, body = self.ask(question, left=attempt * self._instant())
            if status != UNAVAILABLE:
                break
            gevent.sleep(self.typical)
        self.statuses[status] += 1
        if not status.startswith("504"):
            self.faults.append(f"the job {question.number} was not aborted but answered with {status} {body!r}")

    def _instant(self) -> float:
        """Choose when to abort a job: mostly while it works, sometimes while it connects or lingers."""
        longest = self.generator.choice([0.2, 1.0, 1.0, 1.5])
        return 0.001 + self.generator.random() * longest * self.typical

    def client(self) -> None:
        while self.questions:
            question = self.questions.pop()
            (self.aborted if question.aborted else self.normal)(question)

    def measure(self) -> None:
        """Measure how long a normal job takes when all slots are busy."""
        began, rounds = time.monotonic(), 10
        crowd = [gevent.spawn(self._repeat, rounds, -1 - index) for index in range(self.slots)]
        self.go_on.set()
        gevent.joinall(crowd, raise_error=True)
        self.typical = (time.monotonic() - began) / rounds

    def _repeat(self, rounds: int, number: int) -> None:
        for _ in range(rounds):
            self.ask(Question(number, "", aborted=False))

    def fill(self) -> None:
        """Run a job in every slot at the same time."""
        self.parked = 0
        self.go_on.clear()
        last = [Question(-1000 - index, "", aborted=False) for index in range(self.slots)]
        crowd = [gevent.spawn(self.normal, question) for question in last]
        gevent.joinall(crowd, timeout=PATIENCE)
        if self.parked != self.slots:
            self.faults.append(f"only {self.parked} of {self.slots} slots are alive")

    def blow(self) -> dict[str, Any]:
        began = time.monotonic()
        self._call("prepare", self.run)
        try:
            self._phases()
        finally:
            self._call("clean", self.run)
        self._judge()
        return self.report(time.monotonic() - began)

    def _phases(self) -> None:
        self.measure()
        clients = [gevent.spawn(self.client) for _ in range(self.slots)]
        gevent.joinall(clients, raise_error=True)
        self.fill()
        self.balancer.drain(5)
        left, within = self._connections_left()
        if left:
            self.faults.append(f"{left} connections are left on the server {within:.1f} s after the drain")
        self.faults += self._call("verify", self.run, self.answered) or []

    def _connections_left(self) -> tuple[int, float]:
        began = time.monotonic()
        while (left := self.scenario.connections(self.run)) and time.monotonic() < began + 1:
            gevent.sleep(0.02)
        return left, time.monotonic() - began

    def _call(self, name: str, *arguments: Any) -> Any:
        function = getattr(self.scenario, name, None)
        return function(*arguments) if function else None

    def _judge(self) -> None:
        snapshot, counts = self.balancer.snapshot(), self.source.counts
        self.faults += self.users.faults + self.source.faults
        if snapshot.submitted != snapshot.ended or snapshot.queued or snapshot.running or snapshot.sessions:
            self.faults.append(f"the books do not balance: {snapshot}")
        if counts["opened"] != counts["closed"] + counts["discarded"]:
            self.faults.append(f"the sessions do not add up: {dict(counts)}")
        missing = getattr(self.scenario, "PLACES", PLACES) - set(self.landed)
        if missing:
            self.faults.append(f"no abort has landed in {sorted(missing)}: {dict(self.landed)}")

    def report(self, seconds: float) -> dict[str, Any]:
        return {
            "run": self.run,
            "seconds": round(seconds, 1),
            "typical_ms": round(self.typical * 1000, 1),
            "statuses": self.statuses,
            "landed": self.landed,
            "sessions": self.source.counts,
            "faults": self.faults[:20],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario")
    parser.add_argument("--aborted", type=int, default=1000)
    parser.add_argument("--normal", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    assert monkey.is_module_patched("socket"), "run it by python -m gevent.monkey"
    print(f"INTRALB_TEST_SEED={arguments.seed}")
    logging.getLogger("intralb_gevent").setLevel(logging.CRITICAL)
    # Add the script's directory, because gevent.monkey does not put it in sys.path.
    sys.path.insert(0, str(Path(__file__).parent))
    importlib.import_module("addresses")
    scenario = importlib.import_module(f"scenarios.{arguments.scenario}")
    storm = Storm(scenario, arguments.seed, arguments.aborted, arguments.normal)
    print(json.dumps(storm.blow()))


if __name__ == "__main__":
    main()
