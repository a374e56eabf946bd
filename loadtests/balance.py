"""Measures how well several processes share their clients: `python -m loadtests.balance`.

Each request waits for a fixed time in one of the few slots of a process, so the rate cannot exceed a known ceiling. It
is reached only if every request finds a free slot, whichever process has accepted its connection. With `--block`, one
client blocks the event loop of its process by some of its requests, and the durations are those of the other clients.
`--servers` adds rows for other servers: granian has threads as slots; gunicorn's gevent worker has no limit, so there a
semaphore of the application takes the place of slots, as a pool of database connections would.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import gevent
from gevent import socket

from .common.processes import free_port
from .common.servers import clean_environment, listens

SLOTS = 8
BLOCK_SECONDS = 0.2
BLOCK_EVERY = 50
START_SECONDS = 60.0

APPLICATION = """
import os, threading, time
from gevent.monkey import get_original

block = get_original("time", "sleep")
HANDLER, BLOCK = (float(text) for text in os.environ["BALANCE_SECONDS"].split())
slots = threading.BoundedSemaphore(int(os.environ["BALANCE_SLOTS"]))

def bounded(environ, start_response):
    with slots:
        return app(environ, start_response)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/block":
        block(BLOCK)
    else:
        time.sleep(HANDLER)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
"""


OURS = "intralb"
PEERS = {
    "gunicorn": "gunicorn -k gevent -w {processes} --bind 127.0.0.1:{port} balanced:bounded",
    "granian": "granian --interface wsgi --workers {processes} --blocking-threads {slots} --host 127.0.0.1 "
    "--port {port} balanced:app",
}
"""The commands of the other servers, after `python -m`."""


@dataclass
class Result:
    """What the clients of one run have seen."""

    server: str
    processes: int
    connections: int
    seconds: float
    handler_seconds: float
    """Seconds for which each request waits in its slot."""
    statuses: Counter[str] = field(default_factory=Counter)
    durations: list[float] = field(default_factory=list)
    """Seconds of each request, without those of a client that blocks its process."""
    by_process: Sequence[int] = ()
    """Number of connections of each process at the end; empty if the server does not tell."""

    @property
    def ceiling(self) -> float:
        """Maximum number of requests per second."""
        return min(self.connections, SLOTS * self.processes) / self.handler_seconds

    @property
    def share(self) -> float:
        """Fraction of the ceiling that was reached by responses with status 200."""
        return self.statuses["200"] / self.seconds / self.ceiling

    def quantile(self, share: float) -> float:
        """Return a quantile of the durations, in milliseconds."""
        ranked = sorted(self.durations) or [0.0]
        return 1000 * ranked[min(len(ranked) - 1, int(share * len(ranked)))]

    def row(self) -> str:
        """Return the line of the table."""
        others = sum(count for status, count in self.statuses.items() if status != "200")
        spread = "/".join(map(str, sorted(self.by_process, reverse=True)))
        return (
            f"| {self.server} | {self.processes} | {self.connections} "
            f"| {self.statuses['200'] / self.seconds:.0f} | {self.share:.2f} "
            f"| {self.quantile(0.5):.0f} | {self.quantile(0.99):.0f} | {others} | {spread} |"
        )


HEAD = (
    "| server | processes | connections | requests/s | share of the ceiling | p50 ms | p99 ms | other statuses "
    "| connections by process |\n|---|---|---|---|---|---|---|---|---|"
)


class Site(ABC):
    """One server with its processes. The processes import this package from where this process has found it."""

    port: int

    def __init__(self, directory: Path, processes: int, handler_seconds: float) -> None:
        self._directory = directory
        (directory / "balanced.py").write_text(APPLICATION)
        paths = os.pathsep.join(filter(None, [str(directory), os.getcwd(), os.environ.get("PYTHONPATH", "")]))
        seconds = f"{handler_seconds} {BLOCK_SECONDS}"
        variables = {"PYTHONPATH": paths, "BALANCE_SECONDS": seconds, "BALANCE_SLOTS": str(SLOTS)}
        self._environ = clean_environment(variables)
        self._process = self._started(processes)

    @abstractmethod
    def _started(self, processes: int) -> subprocess.Popen[bytes]: ...

    @property
    @abstractmethod
    def _is_ready(self) -> bool: ...

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *words]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=self._directory, env=self._environ, stdout=quiet, stderr=quiet)

    def __enter__(self) -> Site:
        end = time.monotonic() + START_SECONDS
        while not self._is_ready:
            if self._process.poll() is not None or time.monotonic() > end:
                raise SystemExit("the server has not started")
            time.sleep(0.05)
        return self

    def __exit__(self, *ended: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    def connections(self) -> list[int]:
        """Return the number of connections of each process; an empty list if the server does not tell."""
        return []


class Ours(Site):
    """Our supervisor."""

    def _started(self, processes: int) -> subprocess.Popen[bytes]:
        self._ready = self._directory / "ready.json"
        flags = ["--bind", "127.0.0.1:0", "--admin-bind", "127.0.0.1:0", "--ready-file", str(self._ready)]
        size = ["--processes", str(processes), "--max-workers", "1", "--max-concurrent-per-router", str(SLOTS)]
        return self._run("intralb_gevent", "serve", "balanced:app", *flags, *size)

    @property
    def _is_ready(self) -> bool:
        return self._ready.exists()

    def __enter__(self) -> Site:
        super().__enter__()
        facts = json.loads(self._ready.read_text())
        self.port, self._admin = int(facts["addresses"][0]["port"]), int(facts["admin"]["port"])
        return self

    def connections(self) -> list[int]:
        client = http.client.HTTPConnection("127.0.0.1", self._admin)
        client.request("GET", "/snapshot")
        found = json.loads(client.getresponse().read())["site"]["processes"]
        client.close()
        return [each["connections"] for each in found]


class Peer(Site):
    """Another server."""

    def __init__(self, command: str, directory: Path, processes: int, handler_seconds: float) -> None:
        self._command, self.port = command, free_port()
        super().__init__(directory, processes, handler_seconds)

    def _started(self, processes: int) -> subprocess.Popen[bytes]:
        return self._run(*self._command.format(processes=processes, port=self.port, slots=SLOTS).split())

    @property
    def _is_ready(self) -> bool:
        return listens(self.port)


class Clients:
    """Keep-alive clients, each of which sends its next request when the previous one is answered."""

    def __init__(self, site: Site, result: Result, block: bool) -> None:
        self._site, self._result, self._block = site, result, block
        self._counts_from = self._ends = 0.0

    def run(self, warm_up: float) -> None:
        """Run all clients; requests that begin during the first `warm_up` seconds do not count."""
        self._counts_from = time.monotonic() + warm_up
        self._ends = self._counts_from + self._result.seconds
        clients = [gevent.spawn(self._client, number) for number in range(self._result.connections)]
        gevent.sleep(max(0.0, self._ends - time.monotonic()) * 0.9)
        # The clients go on meanwhile, because this module is not monkey-patched.
        self._result.by_process = gevent.get_hub().threadpool.apply(self._site.connections)
        gevent.joinall(clients, raise_error=True)

    def _client(self, number: int) -> None:
        """Send requests; the first client can block its process, and its own durations do not count."""
        blocker, sent = self._block and number == 0, 0
        with socket.create_connection(("127.0.0.1", self._site.port)) as client:
            while (began := time.monotonic()) < self._ends:
                sent += 1
                blocks = blocker and sent % BLOCK_EVERY == 0
                client.sendall(b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"block" if blocks else b""))
                status = _response(client)
                ended = time.monotonic()
                if self._counts_from <= began and ended < self._ends:
                    self._result.statuses[status] += 1
                    if not blocker:
                        self._result.durations.append(ended - began)


def _response(client: socket.socket) -> str:
    """Read one response, and return its status."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(client)
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += _more(client)
    return head.split(b" ")[1].decode()


def _more(client: socket.socket) -> bytes:
    data = client.recv(65536)
    if not data:
        raise ConnectionError("the server has closed a connection")
    return bytes(data)


def measure(result: Result, block: bool) -> Result:
    """Run a site and its clients, and complete the result."""
    start = Ours if result.server == OURS else partial(Peer, PEERS[result.server])
    with tempfile.TemporaryDirectory() as name, start(Path(name), result.processes, result.handler_seconds) as site:
        Clients(site, result, block).run(warm_up=min(2.0, result.seconds / 2))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line of the table for each server and number of processes and connections."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.balance", description=__doc__.splitlines()[0])
    parser.add_argument("--servers", nargs="+", choices=[OURS, *PEERS], default=[OURS])
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--connections", type=int, nargs="+", default=[24, 32, 64])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--handler-ms", type=float, default=20.0, help="milliseconds of each request in its slot")
    parser.add_argument(
        "--block", action="store_true", help=f"every {BLOCK_EVERY}th request of one client blocks its process"
    )
    parsed = parser.parse_args(arguments)
    print(HEAD)
    for server, processes, connections in product(parsed.servers, parsed.processes, parsed.connections):
        result = Result(server, processes, connections, parsed.seconds, parsed.handler_ms / 1000)
        print(measure(result, parsed.block).row(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
