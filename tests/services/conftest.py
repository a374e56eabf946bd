"""Fixtures: the servers that these tests need, monkey-patched processes for tests that need one, and storms.

The address of a server is a URL in INTRALB_TEST_POSTGRESQL, INTRALB_TEST_MARIADB or INTRALB_TEST_REDIS; memcached is
started for each test that needs it. If a test's server does not respond, the test is skipped; with
INTRALB_REQUIRE_SERVICES=1, it fails. The drivers are cooperative only in a patched process, and pytest's
process is not patched: a test that uses the fixture `patched` runs in another pytest, in a patched process.
"""

from __future__ import annotations

import getpass
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
import gevent.socket
import pytest
from gevent import monkey
from gevent.server import StreamServer

from intralb_gevent import LoadBalancer

HERE = Path(__file__).parent
runpy.run_path(str(HERE / "addresses.py"))

STORM_SECONDS = 120
LEGACY_STORM_SHARE = 0.15
"""Default share of the requests of a whole storm against legacy code; see `legacy_storm`."""
LEGACY_STORM_SECONDS = 150
"""Seconds for which a storm of this share can send requests; the storm's other steps take at most a minute."""
PYTEST_IN_A_PATCHED_PROCESS = (
    "from gevent import monkey; monkey.patch_all(); import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
)


def answering(variable: str) -> str:
    """Return the address of a server that accepts connections; if there is none, skip or fail the test."""
    url = urlsplit(os.environ[variable])
    try:
        socket.create_connection((url.hostname or "127.0.0.1", url.port or 0), timeout=2).close()
    except OSError as error:
        skip(f"no server answers at {url.hostname}:{url.port} ({error}); start one, or set {variable} to its URL")
    return os.environ[variable]


def skip(reason: str) -> None:
    """Skip the test, or fail it if all services are required."""
    (pytest.fail if os.environ.get("INTRALB_REQUIRE_SERVICES") == "1" else pytest.skip)(reason)


@pytest.fixture
def postgresql() -> str:
    """Return the URL of a PostgreSQL server."""
    return answering("INTRALB_TEST_POSTGRESQL")


@pytest.fixture
def mariadb() -> str:
    """Return the URL of a MariaDB or MySQL server."""
    return answering("INTRALB_TEST_MARIADB")


@pytest.fixture
def redis_server() -> str:
    """Return the URL of a Redis server."""
    return answering("INTRALB_TEST_REDIS")


@pytest.fixture
def memcached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start memcached for this test; return its HOST:PORT, which INTRALB_TEST_MEMCACHED contains, too."""
    program = shutil.which("memcached")
    if program is None:
        skip("there is no memcached; install it from your system's packages")
    file = tmp_path / "port"
    command = [str(program), "-l", "127.0.0.1", "-p", "-1", "-U", "0", "-u", getpass.getuser(), "-m", "64"]
    process = subprocess.Popen(command, env=os.environ | {"MEMCACHED_PORT_FILENAME": str(file)})
    try:
        address = f"127.0.0.1:{written_port(file, process)}"
        monkeypatch.setenv("INTRALB_TEST_MEMCACHED", address)
        yield address
    finally:
        process.terminate()
        process.wait()


def written_port(file: Path, process: subprocess.Popen[bytes]) -> int:
    """Wait until memcached has written its port to the file."""
    end = time.monotonic() + 10
    while not file.exists():
        assert process.poll() is None, "memcached has ended"
        assert time.monotonic() < end, "memcached has not started"
        time.sleep(0.01)
    return int(file.read_text().split()[-1])


@pytest.fixture
def ask() -> Callable[..., tuple[str, bytes]]:
    """Return a function that calls a balancer as an outer WSGI server would, and returns the status and the body."""

    def request(balancer: LoadBalancer, path: str = "/", **environ: Any) -> tuple[str, bytes]:
        heads: list[str] = []
        start_response = lambda status, headers, exc_info=None: heads.append(status)  # noqa: E731
        result = balancer({"REQUEST_METHOD": "GET", "PATH_INFO": path, **environ}, start_response)
        try:
            return heads[-1], b"".join(result)
        finally:
            # A list has no `close` method.
            getattr(result, "close", list)()

    return request


class Forwarder:
    """A proxy between a driver and its server; `go_away()` cuts open connections and refuses new ones."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._open: set[gevent.socket.socket] = set()
        self.most = 0
        """Maximum number of connections that were open at the same time."""
        self._listener = self._listen(0)
        self._port = self._listener.server_port
        account, at, _ = self._server.netloc.rpartition("@")
        self.url = self._server._replace(netloc=f"{account}{at}127.0.0.1:{self._port}").geturl()

    @property
    def open(self) -> int:
        return len(self._open) // 2

    def _listen(self, port: int) -> StreamServer:
        listener = StreamServer(("127.0.0.1", port), self._forward)
        listener.start()
        return listener

    def refuse(self) -> None:
        """Refuse new connections, but keep open connections."""
        self._listener.close()

    def hold(self) -> None:
        """Accept new connections, but forward no data on them."""
        self._listener.set_handle(lambda client, address: gevent.sleep(60))

    def go_away(self) -> None:
        self.refuse()
        for end in self._open:
            shut(end)

    def come_back(self) -> None:
        self._listener = self._listen(self._port)

    def _forward(self, client: gevent.socket.socket, address: object) -> None:
        upstream = gevent.socket.create_connection((self._server.hostname, self._server.port))
        with client, upstream:
            ends = {client, upstream}
            self._open |= ends
            self.most = max(self.most, self.open)
            gevent.joinall([gevent.spawn(copy, client, upstream), gevent.spawn(copy, upstream, client)])
            self._open -= ends


def copy(source: gevent.socket.socket, target: gevent.socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    shut(target)


def shut(end: gevent.socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(gevent.socket.SHUT_RDWR)


@pytest.fixture
def forwarder() -> Iterator[Callable[[str], Forwarder]]:
    """Return a function that creates a `Forwarder` to the server of a URL; clients connect to its `url`."""
    made: list[Forwarder] = []

    def forward(url: str) -> Forwarder:
        made.append(Forwarder(url))
        return made[-1]

    yield forward
    for one in made:
        one.go_away()


@pytest.fixture
def patched() -> None:
    """Run the test in a monkey-patched process; for a whole module, `pytestmark = usefixtures("patched")`."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run a test that needs patching in another, patched pytest process, unless this process is patched."""
    if not needs_patching(pyfuncitem) or monkey.is_module_patched("socket"):
        return None
    outcomes = pyfuncitem.session.stash.setdefault(OUTCOMES, {})
    if pyfuncitem.nodeid not in outcomes:
        outcomes |= run_patched(pyfuncitem)
    outcome, text = outcomes[pyfuncitem.nodeid]
    if outcome == "failed":
        pytest.fail(f"in the patched process:\n{text}", pytrace=False)
    if outcome == "skipped":
        pytest.skip(text)
    return True


OUTCOMES: pytest.StashKey[dict[str, tuple[str, str]]] = pytest.StashKey()


def needs_patching(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "patched" in item.fixturenames


def run_patched(wanted: pytest.Function) -> dict[str, tuple[str, str]]:
    """Run the wanted test in a patched process, together with the file's other selected tests that need patching."""
    nodes = [item.nodeid for item in wanted.session.items if item.path == wanted.path and needs_patching(item)]
    with tempfile.NamedTemporaryFile("r") as file:
        environ = os.environ | {"INTRALB_TEST_OUTCOMES": file.name}
        command = [sys.executable, "-c", PYTEST_IN_A_PATCHED_PROCESS, "-p", "no:cacheprovider", *nodes]
        root = wanted.config.rootpath
        ended = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, timeout=STORM_SECONDS)
        lost = dict.fromkeys(nodes, ("failed", f"it was not run:\n{ended.stdout}{ended.stderr}"))
        return lost | {node: (outcome, text) for node, outcome, text in map(json.loads, file)}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the outcome of a test in the patched process."""
    file = os.environ.get("INTRALB_TEST_OUTCOMES")
    if file is not None and (report.when == "call" or not report.passed):
        text = "\n".join([report.longreprtext, *(f"{title}\n{content}" for title, content in report.sections)])
        with open(file, "a") as lines:
            lines.write(json.dumps([report.nodeid, report.outcome, text]) + "\n")


@pytest.fixture
def storm() -> Callable[..., dict[str, Any]]:
    """Return a function that runs a storm with a scenario in a separate process, and fails if the storm finds faults.

    For example, `storm("transfer", aborted=300, normal=700)` returns the report. storm.py describes its checks, and how
    to write a scenario.
    """
    return run_storm


def run_storm(scenario: str, aborted: int = 1000, normal: int = 5000) -> dict[str, Any]:
    # Run the script by gevent.monkey, which patches the process first.
    program = ["-W", "error::ResourceWarning", "-m", "gevent.monkey", str(HERE / "storm.py")]
    return storm_report([*program, scenario, "--aborted", str(aborted), "--normal", str(normal)], STORM_SECONDS)


@pytest.fixture
def legacy_storm() -> Callable[..., dict[str, Any]]:
    """Return a function that runs a storm against an application of `legacy/`, and fails if it finds faults.

    legacystorm.py describes its checks. By default, a storm makes 150 aborted and 750 other requests;
    with INTRALB_TEST_STORM_SHARE=1, the numbers are 1,000 and 5,000.
    """
    return run_legacy_storm


def run_legacy_storm(
    scenario: str, *flags: str, cut: int = 1000, normal: int = 5000, **options: float
) -> dict[str, Any]:
    share = float(os.environ.get("INTRALB_TEST_STORM_SHARE", LEGACY_STORM_SHARE))
    seconds = LEGACY_STORM_SECONDS * max(1.0, share / LEGACY_STORM_SHARE)
    options |= {"cut": int(cut * share), "normal": int(normal * share), "seconds": seconds}
    arguments = [f"--{name}={value}" for name, value in options.items()] + [f"--flag={flag}" for flag in flags]
    return storm_report([str(HERE / "legacystorm.py"), f"legacy_{scenario}", *arguments], seconds + 80)


def storm_report(command: list[str], seconds: float) -> dict[str, Any]:
    """Run a storm to its end, as `python COMMAND --seed N`, and return its report."""
    seed = os.environ.get("INTRALB_TEST_SEED", str(int.from_bytes(os.urandom(4), "big")))
    print(f"INTRALB_TEST_SEED={seed}")
    ended = subprocess.run([sys.executable, *command, "--seed", seed], capture_output=True, text=True, timeout=seconds)
    assert ended.returncode == 0, f"the storm has failed (INTRALB_TEST_SEED={seed}):\n{ended.stdout}{ended.stderr}"
    report: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    print(json.dumps(report, indent=2), ended.stderr)
    assert not report["faults"], f"INTRALB_TEST_SEED={seed}: {report['faults']}"
    return report
