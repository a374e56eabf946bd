"""A storm against legacy code: in one server process, normal requests run among requests that are cut at random times.

    python tests/services/legacystorm.py SCENARIO [--cut 1000] [--normal 5000] [--seed N] [--seconds 100]

A storm starts `intralb-gevent serve` with an application from `legacy/`, which contains no code for this server. It
sends requests over persistent connections, and prints a report as JSON. Its exit code is 0 even if it has found faults:
they are in `report["faults"]`.

Most cut requests have a deadline at a random time, as if a proxy had set it; for one in ten, the client
disconnects instead. When it is cut, a request waits in its driver, sleeps or computes, or has not yet reached
that step. The storm checks that

- every normal request is answered 200, only with its own user's data (see `legacy/web.py`), and every other request
  is cut while it runs (504);
- at the end every slot is alive: as many requests as there are slots run in the application at the same time;
- no request has left any state on the scenario's server, while the application runs and after it has ended;
- the scenario's invariants hold, for example that no money was lost;
- the counts of `intralb-gevent` add up, no slot was abandoned, and after SIGTERM its exit code is 0.

A scenario is a module in `scenarios/`. It must define:

`APPLICATION: str`
    The application, as MODULE:NAME.
`STAGES: tuple[str, ...]`
    The steps of the application's page `pay` at which a request that is to be cut can stay.
`prepare(run: str) -> dict[str, str]`, `clean(run: str)`
    Create the data that the application needs, and remove it. `prepare` returns environment variables for the
    application; `run` is unique and a valid name of an SQL schema.
`left(server: Server) -> list[str]`
    Return descriptions of statements, locks and the like that requests have left on the server of the scenario. The
    function is called while `server` is idle, until the list is empty.

and may define:

`verify(server: Server, asked: list[Asked]) -> list[str]`
    Check the data after the server has ended, and return faults; `asked` contains every request and its status.
`connections(run: str) -> int`
    Return the number of the application's connections that are still open after it has ended.
`COMPUTING: float`
    The share of the cut requests that compute; 0.1 by default.
`question(question: Question, generator: Random) -> Question`
    Change a request before it is sent.
`PLACES: set[str]`
    Activities in which requests must have been cut; by default all of {"driver", "sleep", "compute"}.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlencode

import gevent
from gevent import socket

HERE = Path(__file__).parent
USERS = 40
WORKERS, SLOTS_EACH = 3, 4
CLIENTS = 16
PATIENCE = 20.0
SLOW = 30.0
"""Seconds for which a slow statement runs and holds its locks, unless it is ended in the database."""
FLAGS = [
    *("--bind", "127.0.0.1:0", "--admin-bind", "127.0.0.1:0", "--trusted-proxies", "127.0.0.1"),
    *("--max-workers", str(WORKERS), "--min-workers", str(WORKERS), "--max-concurrent-per-router", str(SLOTS_EACH)),
    *(
        "--client-key",
        "off",
        "--limiter",
        "fixed",
        "--cancel-on-disconnect",
        "--request-timeout-seconds",
        str(PATIENCE),
    ),
]


@dataclass(frozen=True)
class Question:
    """One request. A request that is to be cut stays at the step `at`, in the way `how`, until then."""

    number: int
    user: int
    other: int
    amount: int
    page: str
    how: str = ""
    at: str = ""
    leaves: bool = False
    expected: int = 200

    @property
    def head(self) -> str:
        fields = {name: getattr(self, name) for name in ("number", "user", "other", "amount", "how", "at")}
        return f"GET /{self.page}?{urlencode(fields)} HTTP/1.1\r\nHost: tenant{self.user}.example\r\n"


class Asked(NamedTuple):
    question: Question
    status: int
    """HTTP status; 0 if the client has disconnected or there was no response."""


class Answer(NamedTuple):
    status: int
    reason: str
    body: bytes


class Asker:
    """A client with one connection, which it uses until the server closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: Any = None

    def get(self, head: str, seconds: float = PATIENCE) -> Answer:
        if self._connection is None:
            self._connection = socket.create_connection(("127.0.0.1", self._port))
        try:
            self._connection.settimeout(seconds)
            self._connection.sendall(f"{head}\r\n".encode())
            return self._read()
        except OSError:
            self.leave()
            raise

    def leave(self) -> None:
        self._connection.close()
        self._connection = None

    def _read(self) -> Answer:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._received()
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        while len(body) < int(fields.get("content-length", 0)):
            body += self._received()
        if fields.get("connection") == "close":
            self.leave()
        return Answer(int(first.split()[1]), fields.get("x-intralb-reason", ""), body)

    def _received(self) -> bytes:
        data: bytes = self._connection.recv(65536)
        if not data:
            raise ConnectionError("the server has closed the connection")
        return data


class Server:
    """A process of `intralb-gevent serve`."""

    def __init__(self, application: str, run: str, variables: dict[str, str], flags: list[str]) -> None:
        self.run, self.slots = run, WORKERS * SLOTS_EACH
        self._directory = tempfile.TemporaryDirectory(prefix=run)
        self.log, ready = Path(self._directory.name, "log.txt"), Path(self._directory.name, "ready.json")
        command = [sys.executable, "-m", "intralb_gevent", "serve", application, *FLAGS, "--ready-file", str(ready)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *flags], cwd=HERE, env=self._environment(variables), stdin=subprocess.DEVNULL, stderr=log
            )
        try:
            self._wait_until_ready(ready)
        except BaseException:
            self.forget()
            raise
        places = json.loads(ready.read_text())
        self.port, self.admin_port = places["addresses"][0]["port"], places["admin"]["port"]

    def _environment(self, variables: dict[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("INTRALB_")}
        return inherited | {"LEGACY_RUN": self.run, "LEGACY_SLOTS": str(self.slots)} | variables

    def _wait_until_ready(self, ready: Path) -> None:
        end = time.monotonic() + PATIENCE
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server has not started:\n{self.log.read_text()}")
            gevent.sleep(0.02)

    def get(self, path: str, port: int) -> Any:
        return json.loads(Asker(port).get(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n").body)

    def end(self) -> int:
        """End the process by SIGTERM, or by SIGKILL if that fails; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(PATIENCE)

    def forget(self) -> None:
        self.end()
        self._directory.cleanup()


class Storm:
    def __init__(self, scenario: ModuleType, seed: int, cut: int, normal: int, seconds: float) -> None:
        self.scenario, self.seconds = scenario, seconds
        self.run = f"storm_{seed:x}_{time.time_ns() % 10**9:x}"
        self.generator = random.Random(seed)
        self.questions = self._questions(cut, normal)
        self.asked: list[Asked] = []
        self.faults: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.places: dict[str, int] = {}
        self.typical, self.end = 0.0, math.inf
        self.server: Any = None

    # The requests.

    def _questions(self, cut: int, normal: int) -> list[Question]:
        kinds = [True] * cut + [False] * normal
        self.generator.shuffle(kinds)
        questions = [self._question(number, cut) for number, cut in enumerate(kinds, 1)]
        change = getattr(self.scenario, "question", lambda question, generator: question)
        return [change(question, self.generator) for question in questions]

    def _question(self, number: int, cut: bool) -> Question:
        user, other = self.generator.sample(range(1, USERS + 1), 2)
        page = "pay" if cut or self.generator.random() < 0.5 else "look"
        question = Question(number, user, other, self.generator.randrange(1, 100), page)
        if not cut:
            return question
        computing = getattr(self.scenario, "COMPUTING", 0.1)
        how = "compute" if self.generator.random() < computing else self.generator.choice(["driver", "sleep"])
        at, leaves = self.generator.choice(self.scenario.STAGES), self.generator.random() < 0.1
        return replace(question, how=how, at=at, leaves=leaves and how != "compute", expected=504)

    # Sending requests.

    def ask(self, asker: Asker, question: Question) -> None:
        try:
            answer = self._answer(asker, question)
        except OSError as error:
            answer = Answer(0, "", b"")
            if not question.leaves:
                self.faults[f"no answer: {error!r}"] += 1
        if answer.status == 503 and time.monotonic() > self.end:
            self.questions.append(question)
            return
        self.asked.append(Asked(question, answer.status))
        self.statuses[f"{'normal' if question.expected == 200 else 'cut'} {answer.status or 'left'}"] += 1
        if not question.leaves:
            self._judge(question, answer)

    def _answer(self, asker: Asker, question: Question) -> Answer:
        """Repeat the request until it is run, because on a busy machine its deadline can pass while it is queued."""
        for attempt in range(1, 101):
            if question.expected == 200:
                answer = asker.get(question.head)
            else:
                answer = self._cut(asker, question, attempt * self._instant())
            if answer.status != 503 or time.monotonic() > self.end:
                break
            gevent.sleep(self.typical)
        return answer

    def _cut(self, asker: Asker, question: Question, seconds: float) -> Answer:
        if question.leaves:
            # A client that disconnects right after its request is treated as one that has only shut down its sending
            # side.
            return asker.get(f"{question.head}grpc-timeout: 500m\r\n", seconds)
        return asker.get(f"{question.head}grpc-timeout: {seconds * 1e6:.0f}u\r\n")

    def _instant(self) -> float:
        """Choose when to cut a request: mostly while it works, sometimes long after it has reached its step."""
        longest = self.generator.choice([0.3, 1.0, 1.0, 2.0])
        return 0.001 + self.generator.random() * longest * min(self.typical, 0.05)

    def _judge(self, question: Question, answer: Answer) -> None:
        if answer.status != question.expected:
            kind = "normal request" if question.expected == 200 else f"cut request ({question.how} at {question.at})"
            if answer.status:
                self.faults[f"{kind} answered {answer.status}: {self._error(answer)}"] += 1
        elif answer.status == 200:
            for fault in self._strange(question, json.loads(answer.body)):
                self.faults[fault] += 1

    def _error(self, answer: Answer) -> str:
        with suppress(ValueError):
            error = str(json.loads(answer.body)["error"]).splitlines()[0][:100]
            return re.sub(r"\d+", "N", error)
        return answer.reason or repr(answer.body[:60])

    def _strange(self, question: Question, told: dict[str, Any]) -> Iterator[str]:
        if told["number"] != question.number or told["user"] != question.user:
            yield "an answer to another request"
        if told["found"]:
            yield "a thread-local or context variable of an earlier request"
        if not told["owners"] or set(told["owners"]) != {question.user}:
            yield "data that is missing" if None in told["owners"] else "data of another user"
        if not told["numbers"] or set(told["numbers"]) != {question.number}:
            yield "data that is missing" if None in told["numbers"] else "data of another request"

    # The course of the storm.

    def blow(self, slow: float, flags: list[str]) -> dict[str, Any]:
        began = time.monotonic()
        try:
            variables = self.scenario.prepare(self.run) | {"LEGACY_SLOW": str(slow)}
            self.server = Server(self.scenario.APPLICATION, self.run, variables, flags)
            self._phases()
        finally:
            if self.server is not None:
                self.server.forget()
            self.scenario.clean(self.run)
        return self._report(time.monotonic() - began)

    def _phases(self) -> None:
        self._measure()
        self.end = time.monotonic() + self.seconds
        gevent.joinall([gevent.spawn(self._client) for _ in range(CLIENTS)], raise_error=True)
        if self.questions:
            self.faults[f"{self.seconds:.0f} s were over with requests left to ask"] = len(self.questions)
        self._fill()
        self._expect_nothing_left()
        self._expect_balance(self.server.get("/snapshot", self.server.admin_port))
        self._end()

    def _client(self) -> None:
        asker = Asker(self.server.port)
        while self.questions and time.monotonic() < self.end:
            self.ask(asker, self.questions.pop())

    def _measure(self) -> None:
        """Measure how long a normal payment takes when all slots are busy."""
        rounds, began = 10, time.monotonic()
        gevent.joinall(
            [gevent.spawn(self._repeat, rounds, index) for index in range(self.server.slots)], raise_error=True
        )
        self.typical = (time.monotonic() - began) / rounds

    def _repeat(self, rounds: int, index: int) -> None:
        asker = Asker(self.server.port)
        for number in range(rounds):
            self.ask(asker, Question(1_000_000 + index * rounds + number, index + 1, USERS - index, 1, "pay"))

    def _fill(self) -> None:
        """Run one request in each slot at the same time; all these requests must succeed."""
        crowd = [gevent.spawn(self._together, index) for index in range(self.server.slots)]
        gevent.joinall(crowd, raise_error=True)
        self.places = self.server.get("/stages", self.server.port)
        missing = getattr(self.scenario, "PLACES", {"driver", "sleep", "compute"}) - set(self.places)
        if missing:
            self.faults[f"no request was cut in {sorted(missing)}"] += 1

    def _together(self, index: int) -> None:
        question = Question(2_000_000 + index, index + 1, USERS, 1, "look")
        head = question.head.replace(" HTTP/1.1", "&together=1 HTTP/1.1")
        with suppress(OSError):
            self._judge(question, Asker(self.server.port).get(head))
            return
        self.faults["a slot that does not answer"] += 1

    def _expect_nothing_left(self) -> None:
        end = time.monotonic() + 2
        while (left := self.scenario.left(self.server)) and time.monotonic() < end:
            gevent.sleep(0.05)
        self.faults.update(f"left behind: {what}" for what in left)

    def _expect_balance(self, snapshot: dict[str, Any]) -> None:
        ended = sum(snapshot["outcomes"].values())
        if snapshot["submitted"] != ended or snapshot["queued"] or snapshot["running"]:
            figures = {name: snapshot[name] for name in ("submitted", "outcomes", "queued", "running")}
            self.faults[f"the books do not balance: {figures}"] += 1
        if snapshot["given_up"]:
            self.faults["slots that were given up"] += snapshot["given_up"]

    def _end(self) -> None:
        code = self.server.end()
        if code:
            self.faults[f"the server has ended with {code}"] += 1
        count = getattr(self.scenario, "connections", lambda run: 0)
        end = time.monotonic() + 1
        while (still := count(self.run)) and time.monotonic() < end:
            gevent.sleep(0.02)
        if still:
            self.faults["connections after the server has ended"] += still
        verify = getattr(self.scenario, "verify", lambda server, asked: [])
        self.faults.update(verify(self.server, self.asked))
        if self.faults:
            lines = self.server.log.read_text().splitlines()
            print(*[line for line in lines if " was cut after " not in line][-40:], sep="\n", file=sys.stderr)

    def _report(self, seconds: float) -> dict[str, Any]:
        return {
            "run": self.run,
            "seconds": round(seconds, 1),
            "typical_ms": round(self.typical * 1000, 1),
            "statuses": self.statuses,
            "places": self.places,
            "faults": dict(self.faults.most_common(20)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario")
    parser.add_argument("--cut", type=int, default=1000)
    parser.add_argument("--normal", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--slow", type=float, default=SLOW, help="seconds that each slow statement takes")
    parser.add_argument("--flag", action="append", default=[], help="a flag for the server: --flag=--no-integrations")
    arguments = parser.parse_args()
    print(f"INTRALB_TEST_SEED={arguments.seed}")
    sys.path.insert(0, str(HERE))
    importlib.import_module("addresses")
    scenario = importlib.import_module(f"scenarios.{arguments.scenario}")
    storm = Storm(scenario, arguments.seed, arguments.cut, arguments.normal, arguments.seconds)
    print(json.dumps(storm.blow(arguments.slow, arguments.flag)))


if __name__ == "__main__":
    main()
