"""All crowds, each with all servers in turn, from the first to the table.

Decides their order, what is left out, and the exit code. It must not know what a client does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Final

from ..side_by_side import BenchmarkError
from ..side_by_side.arguments import add_choices, add_number
from ..side_by_side.processes import pinned
from ..side_by_side.servers import OURS, SERVERS, Server, clean_environment, missing, start_command, versions
from ..side_by_side.starting import listening
from ..side_by_side.surroundings import end_orderly, machine, pinning, require_pinning, say, two_cores, write
from .clients import Seen, run
from .crowds import CROWDS, Crowd
from .flood import FLOODS, play
from .results import Results
from .table import as_markdown

__all__ = ["main"]

_APPLICATION: Final = "loadtests.closed_loop.application:application"
FLOOD: Final = "flood"
_USUAL: Final = ("intralb", "gunicorn", "granian", "waitress")
_REPORTS: Final = pathlib.Path(__file__).parents[1] / "reports"
_WARM_UP_SECONDS: Final = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; return 0, 1 if a goal was not reached, or 2 if nothing could be measured."""
    end_orderly()
    parsed = _parse(arguments)
    try:
        results = _measure_all(parsed)
        write(parsed.output, "closed.md", as_markdown(results))
    except BenchmarkError as error:
        print(f"closed: error: {error}", file=sys.stderr)
        return 2
    print(as_markdown(results))
    return int(bool(results.failures or [*results.misses()]))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.closed",
        description="Let clients that wait for each answer ask our server and the others, and print tables.",
    )
    add_choices(parser, "--kinds", ["cpu", "db", "pages", FLOOD])
    add_choices(parser, "--servers", [*_USUAL])
    add_number(parser, "--seconds", 5, "how long the clients of a crowd ask")
    add_number(parser, "--most-clients", 64, "leave out crowds that are larger")
    parser.add_argument("--output", metavar="DIRECTORY", type=pathlib.Path, default=_REPORTS, help="for closed.md")
    return parser.parse_args(arguments)


def _measure_all(parsed: argparse.Namespace) -> Results:
    require_pinning()
    servers = [SERVERS[name] for name in parsed.servers if not (what := missing(SERVERS[name])) or _left_out(what)]
    crowds = [crowd for crowd in CROWDS if _is_wanted(crowd, parsed)]
    floods = parsed.kinds.count(FLOOD) and any(server.name == OURS for server in servers)
    if not servers or not (crowds or floods):
        raise BenchmarkError("there is nothing to measure; install what is missing, or choose other --servers")
    server_core, client_core = two_cores()
    results = Results(_about(parsed, server_core, client_core))
    with tempfile.TemporaryDirectory(prefix="intralb-closed-") as name, pinned(client_core):
        for crowd in crowds:
            say(f"{crowd.kind} {crowd.name}")
            results.seen[crowd] = {}
            for server in servers:
                _measure_one(results, crowd, server, parsed.seconds, server_core, pathlib.Path(name))
        if floods:
            _play_floods(results, server_core, pathlib.Path(name))
    return results


def _play_floods(results: Results, core: int, directory: pathlib.Path) -> None:
    for flood, flags in FLOODS.items():
        say(f"flood, {flood}")
        with _serving(SERVERS[OURS], core, directory, flags) as port:
            results.floods[flood] = play(port)


def _left_out(what: str) -> bool:
    """Say what is not installed. Returns False: what needs it is left out."""
    say(f"{what} is not installed, so it is left out")
    return False


def _is_wanted(crowd: Crowd, parsed: argparse.Namespace) -> bool:
    kind = "pages" if crowd.assets else crowd.kind
    return kind in parsed.kinds and crowd.clients <= parsed.most_clients


def _measure_one(
    results: Results, crowd: Crowd, server: Server, seconds: float, core: int, directory: pathlib.Path
) -> None:
    try:
        results.seen[crowd][server.name] = _measure(crowd, server, seconds, core, directory)
    except BenchmarkError as error:
        say(f"  {server.title} failed: {error}")
        results.failures.append(f"{crowd.name} of {server.title} could not be measured: {error}")


def _measure(crowd: Crowd, server: Server, seconds: float, core: int, directory: pathlib.Path) -> Seen:
    with _serving(server, core, directory) as port:
        # A server may import something, or add workers, with its first requests.
        run(Crowd(crowd.kind, crowd.milliseconds, 2), port, _WARM_UP_SECONDS)
        return run(crowd, port, seconds)


@contextlib.contextmanager
def _serving(server: Server, core: int, directory: pathlib.Path, flags: Sequence[str] = ()) -> Iterator[int]:
    def command(port: int) -> list[str]:
        return start_command(server, _APPLICATION, port, flags=flags)

    with listening(command, core, directory / f"{server.name}.log", clean_environment({})) as (_, port):
        yield port


def _about(parsed: argparse.Namespace, server_core: int, client_core: int) -> dict[str, str]:
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return {
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "pinned": pinning(server_core, client_core),
        "each": f"{parsed.seconds} s after {_WARM_UP_SECONDS:g} s with two clients; browsers until all is loaded",
        "versions": f"Python {platform.python_version()}, {packages}",
    }
