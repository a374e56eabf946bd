"""Tests of the closed-loop benchmark: the requests that crowds send, counts, goals and output."""

from collections import Counter

import pytest
from commands import linux, run

from loadtests.closed.clients import CROWDS, SHEDDABLE, Crowd, Flooded, Seen
from loadtests.closed.run import Results

CROWD = Crowd("cpu", 20, 20)


@linux
def test_browsers_and_clients_that_ask_again_at_once_are_all_answered(tmp_path) -> None:
    arguments = ("--servers", "intralb", "--seconds", 1, "--most-clients", 2, "--output", tmp_path)
    code, output, errors = run("closed", "--kinds", "pages", *arguments)
    assert "All goals are reached." in output, errors
    assert code == 0
    assert output.strip() == (tmp_path / "closed.md").read_text().strip()
    rows = [line for line in output.splitlines() if "**intralb_gevent**" in line]
    assert len(rows) == 2
    assert all(row.endswith("| 0               |") for row in rows)


def test_what_cannot_be_measured_is_said() -> None:
    code, _, errors = run("closed", "--kinds", "pages", "--most-clients", 0)
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
    ("flood", "refused", "until", "missed"),
    [
        ("as critical as the clients", (0, 1000, 0), 0.0, 0),
        (SHEDDABLE, (0, 1, 0), 0.0, 1),
        (SHEDDABLE, (0, 0, 0), 5.1, 1),
        (SHEDDABLE, (1, 0, 0), 0.0, 1),
    ],
)
def test_floods_are_judged(flood: str, refused: tuple[int, int, int], until: float, missed: int) -> None:
    flooded = Flooded((48, 40, 48), refused, until)
    assert len([*Results(floods={flood: flooded}).misses()]) == missed


def test_most_crowds_fit_into_a_bearable_wait() -> None:
    assert sum(crowd.longest_wait < 2 for crowd in CROWDS) >= 24
