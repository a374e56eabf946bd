"""Tests of the nightly tests with short runs: their results, the faults that they find, and their output."""

import re
import shutil

import pytest
from commands import Runs

from loadtests.nightly.client import Book
from loadtests.nightly.corpus import corpus
from loadtests.nightly.runs import Faults, complaints, unbalanced
from loadtests.nightly.smuggle import PATH, fronts
from loadtests.nightly.storm import Sample, growth

ENDINGS = dict.fromkeys(["completed", "failed", "shed", "expired", "timed_out", "disconnected", "killed"], 0)


# Short runs.

SHORT_RUNS = {
    "storm": ("storm", "--seconds", 4, "--clients", 16, "--seed", 7),
    "soak": ("soak", "--seconds", 6, "--clients", 4, "--seed", 7),
    "fuzz": ("fuzz", "--seconds", 5, "--clients", 8, "--seed", 7),
    "smuggling": ("smuggling", "--seconds", 4, "--clients", 2, "--seed", 7),
}


@pytest.fixture(scope="module")
def runs():
    made = Runs(SHORT_RUNS)
    yield made
    made.end()


def test_the_books_balance_after_a_storm(runs):
    code, output, errors = runs["storm"]
    assert (code, output.splitlines()[-1]) == (0, "storm: every invariant held"), output + errors
    # The storm covered responses, upgrades, cut responses, errors, deadlines and malformed requests.
    assert set(re.findall(r"x (\w+)", output)) >= {"200", "101", "cut", "500", "504", "400"}
    assert "python -m loadtests.storm --seconds 4 --clients 16 --seed 7" in errors


def test_a_short_soak_is_judged_like_a_long_one(runs):
    code, output, errors = runs["soak"]
    assert "medians of each fifth:" in output, errors
    # In a run of a few seconds, memory can still grow, as modules load and caches fill; all other invariants must hold.
    broken = [line for line in output.splitlines() if "broken" in line and "megabytes" not in line]
    assert (broken, code in (0, 1)) == ([], True), output + errors


def test_damaged_bytes_harm_no_other_client_at_any_door(runs):
    code, output, errors = runs["fuzz"]
    assert (code, output.splitlines()[-1]) == (0, "fuzz: every invariant held"), output + errors
    doors = {"plain HTTP", "PROXY header", "TLS", "HTTP within TLS", "admin"}
    assert set(re.findall(r"x ([\w ]+):", output)) == doors


@pytest.mark.parametrize("program", ["nginx", "haproxy"])
def test_no_canary_gets_anothers_answer(runs, program):
    if shutil.which(program, path=PATH) is None:
        pytest.skip(f"{program} is not installed; its package in Debian has the same name")
    code, output, errors = runs["smuggling"]
    assert (code, output.splitlines()[-1]) == (0, "smuggling: every invariant held"), output + errors
    assert {"nginx": "through nginx without buffers", "haproxy": "through lenient HAProxy"}[program] in output


def test_proxies_that_are_not_installed_are_left_out_and_named(tmp_path, capsys):
    with fronts(tmp_path, 1, "secret", path="") as found:
        assert [front.title for front in found] == ["alone"]
    said = capsys.readouterr().err
    assert "nginx is not installed" in said
    assert "haproxy is not installed" in said


# Tests that faults are found.


def test_a_book_tells_what_was_run_twice_or_never_or_though_it_was_said_not_to_be():
    book = Book(3)
    for know in (book.was_answered, book.was_answered, book.was_not_run, book.was_not_run):
        know(book.next())
    book.next()
    assert [*book.disagreements(bytes([1, 1, 0, 0, 1]))] == []
    assert [*book.disagreements(bytes([2, 0, 0, 1, 2]))] == [
        "request 3.0 was run 2 times, not 1",
        "request 3.1 was run 0 times, not 1",
        "request 3.3 was run 1 times, not 0",
        "request 3.4 was run 2 times, not 0 or 1",
    ]
    assert "a request 3.5, which was never sent" in next(book.disagreements(bytes(6)))


def test_counters_that_do_not_add_up_are_said():
    snapshot = {"submitted": 5, "queued": 1, "running": 1, "outcomes": {**ENDINGS, "completed": 3}}
    assert unbalanced(snapshot) == ""
    assert unbalanced({**snapshot, "running": 0}) == "submitted are 5, but 3 ended, with those that wait and run 4"


def test_only_tracebacks_that_were_asked_for_are_no_complaints():
    asked = (
        "GET /error failed: AskedForError\n  | Traceback (most recent call last):\n  |   File\n  | x.AskedForError: 1\n"
    )
    other = "Traceback (most recent call last):\n  File\nKeyError: 1\n"
    assert [*complaints(asked)] == []
    assert [*complaints(asked + other + asked)] == ["KeyError: 1"]
    assert [*complaints("closed it because of a bug in intralb_gevent:\n")]


@pytest.mark.parametrize("name", ["megabytes", "objects", "greenlets", "descriptors"])
def test_growth_counts_from_the_second_fifth_on(name):
    level = {"megabytes": 50.0, "objects": 40_000, "greenlets": 10, "descriptors": 20}
    flat = [Sample(**{**level, name: 1})] * 2 + [Sample(**level)] * 8
    assert [*growth(flat)] == []
    grown = flat[:8] + [Sample(**{**level, name: 2 * level[name] + 20})] * 2
    assert [text.split()[0] for text in growth(grown)] == [name]


def test_the_verdict_names_what_was_broken_and_how_to_repeat_it(capsys):
    faults = Faults()
    for _ in range(2):
        faults.add("it broke")
    parsed = type("Parsed", (), {"seconds": 5, "clients": 2, "seed": 9})()
    assert faults.conclude("storm", parsed, "its words") == 1
    assert capsys.readouterr().out.splitlines() == [
        "storm: broken: it broke (2 times)",
        "repeat it with: python -m loadtests.storm --seconds 5 --clients 2 --seed 9",
    ]


def test_each_ambiguous_request_has_another_within():
    requests = [*corpus("me")]
    assert len(requests) > 500
    assert all(b"GET /inner/me HTTP/1.1\r\n" in each.data and b"/outer/me" in each.data for each in requests)
    assert len({each.title for each in requests}) > 500
