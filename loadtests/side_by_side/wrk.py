"""Drives a server with `wrk`, and reads what it found.

Decides wrk's command line and what its words mean. It must not know which server it drives.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from . import BenchmarkError
from .cases import Case
from .processes import running

__all__ = ["Load", "drive", "installed", "read"]

_PATIENCE_SECONDS: Final = 15
"""How much longer than its time wrk may take."""
_MILLISECONDS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}
_SOCKET_ERRORS: Final = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
_NOT_RIGHT: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_REQUESTS: Final = re.compile(r"(\d+) requests in ")
_RATE: Final = re.compile(r"Requests/sec: +([\d.]+)")


@dataclass(frozen=True)
class Load:
    """What wrk has found in one run."""

    rate: float
    """Right answers per second."""
    p50: float
    """In milliseconds, as p99 is."""
    p99: float
    errors: Mapping[str, int]
    """What went wrong, and how often; only what did."""


def installed() -> bool:
    """Say whether wrk is there."""
    return shutil.which("wrk") is not None


def drive(case: Case, port: int, seconds: int, connections: int, core: int, directory: pathlib.Path) -> Load:
    """Send the request of a case for some seconds. Raises `BenchmarkError` when wrk does not do its work."""
    command = ["wrk", "--threads=1", f"--connections={connections}", f"--duration={seconds}s", "--latency"]
    command += [f"--header={name}: {value}" for name, value in case.headers.items()]
    if case.body:
        command.append(f"--script={_script(case, directory)}")
    with running([*command, f"http://127.0.0.1:{port}/"], core, directory / "wrk.log") as process:
        try:
            exit_code = process.wait(seconds + _PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"wrk has not ended {_PATIENCE_SECONDS} s after its time") from None
        if exit_code:
            raise BenchmarkError(f"wrk ended with exit code {exit_code}: {process.last_words()}")
        return read(process.output())


def _script(case: Case, directory: pathlib.Path) -> pathlib.Path:
    path = directory / f"{case.name}.lua"
    body = f'string.rep("x", {len(case.body)})'
    path.write_text(f'wrk.method = "{case.method}"\nwrk.body = {body}\n', encoding="utf-8")
    return path


def read(text: str) -> Load:
    """Return what wrk's output says; wrong answers do not count as answers. Raises `BenchmarkError`."""
    requests, rate = _REQUESTS.search(text), _RATE.search(text)
    if requests is None or rate is None:
        raise BenchmarkError(f"wrk did not say what it found: {text.strip()[-200:]!r}")
    errors = _errors(text)
    right = 1 - errors.get("non-2xx", 0) / max(int(requests[1]), 1)
    return Load(float(rate[1]) * right, _percentile(text, 50), _percentile(text, 99), errors)


def _errors(text: str) -> dict[str, int]:
    sockets = _SOCKET_ERRORS.search(text)
    counts = dict(zip(("connect", "read", "write", "timeout"), sockets.groups() if sockets else (), strict=False))
    not_right = _NOT_RIGHT.search(text)
    counts["non-2xx"] = not_right[1] if not_right else "0"
    return {name: int(count) for name, count in counts.items() if int(count)}


def _percentile(text: str, percent: int) -> float:
    match = re.search(rf"^ +{percent}% +([\d.]+)(us|ms|s|m|h)\b", text, re.MULTILINE)
    return float(match[1]) * _MILLISECONDS[match[2]] if match else 0.0
