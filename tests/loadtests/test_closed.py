"""The closed-loop benchmark: that crowds are answered, and what it counts, judges and prints."""

import os
import pathlib
import subprocess
import sys
from collections import Counter

import pytest

# It is not part of what is installed.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from loadtests.closed_loop.clients import Seen
from loadtests.closed_loop.crowds import CROWDS, Crowd
from loadtests.closed_loop.flood import SHEDDABLE, Flooded
from loadtests.closed_loop.results import Results

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 60
linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are pinned on Linux only")
CROWD = Crowd("cpu", 20, 20)
WELL = Flooded(48, 40, 48, 0, 0, 0, 0.0)


def measure(*arguments):
    command = [sys.executable, "-m", "loadtests.closed", *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    return ended.returncode, ended.stdout, ended.stderr


@linux
def test_browsers_and_clients_that_ask_again_at_once_are_all_answered(tmp_path) -> None:
    arguments = ("--servers", "intralb", "--seconds", 1, "--most-clients", 2, "--output", tmp_path)
    code, output, errors = measure("--kinds", "pages", *arguments)
    assert "All goals are reached." in output, errors
    assert code == 0
    assert output.strip() == (tmp_path / "closed.md").read_text().strip()
    rows = [line for line in output.splitlines() if "**intralb_gevent**" in line]
    assert len(rows) == 2
    assert all(row.endswith("| 0               |") for row in rows)


def test_what_cannot_be_measured_is_said() -> None:
    code, _, errors = measure("--kinds", "pages", "--most-clients", 0)
    assert code == 2
    assert "it must be" in errors or "not allowed" in errors


def seen(waits: list[float], served: list[int], refused: int = 0) -> Seen:
    return Seen(1.0, Counter({"200": len(waits), "503 overloaded": refused}), waits, served)


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (seen([0.4] * 50, [2] * 20, refused=3), "3 were not answered 200"),
        (seen([0.4] * 50, [1, *[3] * 19]), "one client had 1 answers, another 3"),
        (seen([0.4] * 40, [2] * 20), "40.0 answers per second, gunicorn 50.0"),
        (seen([*[0.4] * 49, 0.7], [2] * 20), "the longest wait is 0.70 s, gunicorn's 0.40"),
    ],
)
def test_each_goal_is_judged(ours: Seen, said: str) -> None:
    results = Results(seen={CROWD: {"intralb": ours, "gunicorn": seen([0.4] * 50, [2] * 20)}})
    (miss,) = results.misses()
    assert said in miss


def test_a_crowd_that_cannot_be_served_in_a_bearable_time_may_be_refused() -> None:
    crowd = Crowd("cpu", 50, 64)
    assert not [*Results(seen={crowd: {"intralb": seen([], [0], refused=100)}}).misses()]


@pytest.mark.parametrize(
    ("flood", "changes", "missed"),
    [
        ("as critical as the clients", {"refused_during": 1000}, 0),
        (SHEDDABLE, {"refused_during": 1}, 1),
        (SHEDDABLE, {"refused_until": 5.1}, 1),
        (SHEDDABLE, {"refused_before": 1}, 1),
    ],
)
def test_floods_are_judged(flood: str, changes: dict[str, float], missed: int) -> None:
    flooded = Flooded(**{**vars(WELL), **changes})
    assert len([*Results(floods={flood: flooded}).misses()]) == missed


def test_most_crowds_fit_into_a_bearable_wait() -> None:
    assert sum(crowd.longest_wait < 2 for crowd in CROWDS) >= 24
