"""Starts our server in a separate process, or uses a running one on this machine, and samples its snapshots."""

from __future__ import annotations

import http.client
import json
import pathlib
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

from . import LoadTestError
from .processes import Process
from .servers import COMMAND

_LOCAL: Final = ("127.0.0.1", "localhost", "::1")
_START_SECONDS: Final = 20.0
_TIMEOUT_SECONDS: Final = 20.0
_SHORTEST_SECONDS: Final = 0.5
"""Minimum interval between snapshots, in seconds. A shorter interval is merged with the previous one."""
_WATCHED: Final = ("--admin-bind=127.0.0.1:0", "--no-enable-logging")
# Requests to this machine must bypass any proxy from the environment.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Target:
    """The URLs of an application and of its server's admin address."""

    url: str
    admin_url: str
    about: str
    """Description of the server, for the report."""
    flags: Sequence[str] = ()
    """The command-line flags of the server, if known."""


def local_url(flag: str, text: str) -> str:
    """Return the URL without a trailing slash. Raises `LoadTestError` if its host is not this machine."""
    parts = urlsplit(text)
    if parts.scheme != "http" or parts.hostname not in _LOCAL:
        raise LoadTestError(
            f"{flag}: {text!r} is not allowed; it must be http:// at 127.0.0.1, localhost or [::1], "
            "for a load test of another machine is an attack on it"
        )
    return text.rstrip("/")


class OwnServer(Process):
    """Our server in a separate process, on ports that the operating system picks.

    `command` is the command line after the program's name, `about` the description for the report. A watched server has
    an admin address, and does not log requests.
    """

    stop_seconds = 20.0

    def __init__(
        self,
        directory: pathlib.Path,
        command: Sequence[str],
        about: str,
        flags: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        core: int | None = None,
        watched: bool = True,
    ) -> None:
        self._ready_file = directory / "ready.json"
        self._about = about
        self._flags = flags
        own = ["--bind=127.0.0.1:0", f"--ready-file={self._ready_file}", *(_WATCHED if watched else ())]
        super().__init__([*COMMAND, *command, *own, *flags], directory / "server.log", core, environ)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the process in any case; if the run failed, add the last log lines to the error."""
        super().__exit__(kind, error, trace)
        if isinstance(error, LoadTestError) and self._popen is not None:
            error.args = (f"{error}\nThe server's last words:\n{self.last_lines()}",)

    def target(self) -> Target:
        """Wait until the server listens; return its URLs. Raises `LoadTestError` after a timeout."""
        self.wait_for(self._ready_file.exists, _START_SECONDS, self._about)
        facts = json.loads(self._ready_file.read_text(encoding="utf-8"))
        admin = (facts.get("admin") or {}).get("url", "")
        return Target(facts["addresses"][0]["url"], admin, self._about, self._flags)


def with_defaults(defaults: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Prepend the defaults that `flags` does not override; each default has the form --NAME=VALUE."""
    given = {flag.partition("=")[0] for flag in flags}
    return [*(flag for flag in defaults if flag.partition("=")[0] not in given), *flags]


def snapshot(admin_url: str) -> dict[str, Any]:
    """Fetch a snapshot from the server's admin address. Raises `LoadTestError` if the address does not respond."""
    url = f"{admin_url}/snapshot"
    try:
        with _opener.open(url, timeout=_TIMEOUT_SECONDS) as answer:
            return dict(json.load(answer))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise LoadTestError(f"the server does not report its figures at {url}: {error}") from None


def accepting(facts: Mapping[str, Any]) -> int:
    """Return the number of workers in a snapshot that accept jobs."""
    return sum(not worker["retiring"] for worker in facts["workers"])


@dataclass(frozen=True)
class Moment:
    """One snapshot of the server, and the changes since the previous one."""

    begin: float
    """Time of the previous snapshot, in seconds since the epoch."""
    end: float
    facts: Mapping[str, Any]
    """The fields of the snapshot, which are those of `intralb_gevent.observe.snapshot.Snapshot`."""
    before: Mapping[str, Any]

    def rates(self, name: str) -> dict[str, float]:
        """Return the growth per second of each counter in the group `name`."""
        length = max(self.end - self.begin, 1e-3)
        return {key: count / length for key, count in grown(self.facts[name], self.before[name]).items()}

    @property
    def workers(self) -> int:
        """The number of workers that accept jobs."""
        return accepting(self.facts)

    def mean(self, name: str) -> float | None:
        """Return the mean of the durations `name` since the previous snapshot, in ms, or None without durations."""
        now, then = self.facts[name], self.before[name]
        gained = now["count"] - then["count"]
        return (now["mean"] * now["count"] - then["mean"] * then["count"]) / gained * 1000 if gained else None

    def so_far(self, name: str, figure: str) -> float:
        """Return one statistic of the durations `name` since the server's start, in milliseconds."""
        return float(self.facts[name][figure]) * 1000


def grown(now: Mapping[str, int], then: Mapping[str, int]) -> dict[str, int]:
    """Return the growth of each counter that has grown."""
    return {key: count - then.get(key, 0) for key, count in now.items() if count > then.get(key, 0)}


@dataclass
class Watch:
    """Samples the server's snapshots, starting with `begin`."""

    admin_url: str
    moments: list[Moment] = field(default_factory=list)
    first: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    """The server's exit code; None unless this run stopped the server."""
    _previous: Mapping[str, Any] = field(default_factory=dict, init=False)
    _taken: float = field(default=0.0, init=False)
    """Time of the previous snapshot, in seconds since the epoch."""

    def begin(self) -> None:
        """Take the first snapshot, the baseline for all later ones."""
        self.first = snapshot(self.admin_url)
        self._previous, self._taken = self.first, time.time()

    def look(self) -> Moment:
        """Take one snapshot."""
        facts, now = snapshot(self.admin_url), time.time()
        moment = Moment(self._taken, now, facts, self._previous)
        if self.moments and now - self._taken < _SHORTEST_SECONDS:
            last = self.moments.pop()
            moment = Moment(last.begin, now, facts, last.before)
        self._previous, self._taken = facts, now
        self.moments.append(moment)
        return moment

    def look_until_idle(self, seconds: float) -> None:
        """Take snapshots until one shows no queued or running job, or until `seconds` have passed."""
        give_up = time.monotonic() + seconds
        while True:
            moment = self.look()
            if not moment.facts["queued"] + moment.facts["running"] or time.monotonic() > give_up:
                return
            time.sleep(0.2)

    # Figures of the whole run.

    @property
    def last(self) -> Mapping[str, Any]:
        """The last snapshot."""
        return self.moments[-1].facts if self.moments else self.first

    @property
    def outcomes(self) -> dict[str, int]:
        """The number of the run's jobs with each outcome."""
        return grown(self.last["outcomes"], self.first["outcomes"])

    @property
    def shed_reasons(self) -> dict[str, int]:
        """The number of the run's jobs that were shed, by reason."""
        return grown(self.last["shed_reasons"], self.first["shed_reasons"])

    @property
    def ended(self) -> int:
        """The number of the run's jobs that have ended."""
        return sum(self.outcomes.values())

    @property
    def fewest_workers(self) -> int:
        """The minimum number of workers in any snapshot; 0 if a snapshot was taken before the first job."""
        return min((moment.workers for moment in self.moments if moment.facts["workers"]), default=0)

    @property
    def most_workers(self) -> int:
        """The maximum number of workers in any snapshot."""
        return max((moment.workers for moment in self.moments), default=0)
