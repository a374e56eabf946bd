"""Tests of the overload scenarios: goals, runs and stored results. No test checks performance."""

import itertools
import os
import xml.etree.ElementTree as ElementTree

import pytest
from commands import Runs, linux, run
from hypothesis import given
from hypothesis import strategies as st

from loadtests.common.report import as_json, load
from loadtests.common.servers import SERVERS, missing
from loadtests.overload.results import Play, Point, Results, from_json, steady_checks
from loadtests.overload.scenarios import (
    SCENARIOS,
    Goal,
    Observed,
    Span,
    Workers,
    burst,
    inversions,
    pinned,
    quiet,
    spike,
    stall,
    step,
    step_cpu,
)
from loadtests.overload.seen import ANSWERED, GIVEN_UP, NO_REPEAT, REFUSED, End, firsthand, summed_up, timeline
from loadtests.overload.serving import Costs


def answered(due, after=0.05):
    return End(ANSWERED, 0.0, after, due)


def refused(due, after=0.001):
    return End(REFUSED, 0.0, after, due)


def given_up(due):
    return End(GIVEN_UP, 0.0, 2.0, due)


def hundred_a_second(begin, end, make=answered):
    return [make(begin + number / 100 + 0.001) for number in range(round((end - begin) * 100))]


def reached(checks):
    return [check.reached for check in checks]


# Tests of retries.


def test_a_request_that_is_asked_again_is_one_and_lasts_from_its_first_attempt():
    ends = [
        refused(1.0, 0.1),
        answered(1.05, 0.2),
        End(REFUSED, 0.0, 0.1, 1.1, 0, 0),
        End(ANSWERED, 0.0, 0.25, 1.2, 0, 0),
    ]
    first, other = firsthand(ends)
    assert (first.kind, first.due, first.after, first.repeats) == (ANSWERED, 1.0, pytest.approx(0.45), NO_REPEAT)
    assert other == ends[1]
    assert first.useful


# Tests of the timeline.


@given(st.lists(st.floats(0, 2.5), max_size=50))
def test_every_request_falls_into_one_tenth_of_its_time(instants):
    ends = [answered(due) for due in sorted(instants)]
    line = timeline(ends, ends, 2.0)
    assert {len(column) for column in (line.offered, line.sent, line.useful, line.refused, line.p99)} == {20}
    assert sum(line.offered) == sum(line.useful) == sum(int(due / 0.1) < 20 for due in instants)


def test_a_timeline_tells_what_became_of_what_was_to_be_sent_then():
    ends = [answered(0.01, 0.05), refused(0.02), answered(0.11, 0.6), given_up(0.31)]
    line = timeline(ends, [*ends, refused(0.12)], 0.4)
    assert (line.offered, line.sent) == ([2, 1, 0, 1], [2, 2, 0, 1])
    assert (line.useful, line.refused) == ([1, 0, 0, 0], [1, 0, 0, 0])
    assert line.p99 == [50, 600, None, 2000]


# Tests of goals.


@pytest.mark.parametrize(
    ("goal", "sentence"),
    [
        (Goal("it takes", 499.0, 500, "ms"), "reached: it takes: 499 ms (goal: at most 500 ms)"),
        (Goal("it takes", 501.0, 500, "ms"), "not reached: it takes: 501 ms (goal: at most 500 ms)"),
        (Goal("it takes", None, 500, "ms"), "not reached: it takes: never (goal: at most 500 ms)"),
        (Goal("of all", 99.95, 99.9, "%", True), "reached: of all: 99.95 % (goal: at least 99.90 %)"),
    ],
)
def test_a_goal_says_whether_it_is_reached(goal, sentence):
    assert goal.sentence == sentence


BURST = {"before": Span(0, 10), "burst": Span(10, 12), "after": Span(12, 20)}


def after_a_burst(slow_until, make=lambda due: answered(due, 0.4)):
    before, after = hundred_a_second(0, 10), hundred_a_second(slow_until, 20)
    return Observed(BURST, {"all": [*before, *hundred_a_second(12, slow_until, make), *after]})


@pytest.mark.parametrize(("slow_until", "milliseconds"), [(12.0, 0), (12.3, 300), (14.0, 2000)])
@pytest.mark.parametrize("make", [lambda due: answered(due, 0.4), refused], ids=["slow", "refused"])
def test_after_a_burst_it_is_well_when_answers_are_quick_and_many_again(slow_until, milliseconds, make):
    (check,) = burst(after_a_burst(slow_until, make))
    # The normal state allows rejecting up to 5 % of requests, so the recovery can be reported slightly early.
    assert milliseconds - 100 <= check.figure <= milliseconds
    assert check.reached == (milliseconds <= 500)


def test_a_burst_that_is_never_over_is_not_judged_by_a_good_moment():
    pieces = [hundred_a_second(12, 14, refused), hundred_a_second(14, 15.5), hundred_a_second(15.5, 20, refused)]
    observed = Observed(BURST, {"all": [*hundred_a_second(0, 10), *itertools.chain(*pieces)]})
    assert [check.figure for check in burst(observed)] == [None]


def test_a_stall_is_over_when_nearly_all_is_answered_in_time_again():
    phases = {"stall": Span(0, 5), "after": Span(5, 15)}
    for slow, expected in ((1.0, True), (4.0, False)):
        ends = [*hundred_a_second(5, 5 + slow, given_up), *hundred_a_second(5 + slow, 15)]
        assert reached(stall(Observed(phases, {"all": ends}))) == [expected]


def test_a_pinned_job_is_not_to_be_felt():
    phases = {"before": Span(0, 5), "pinned": Span(5, 10)}
    for after, expected in ((0.05, True), (0.08, False)):
        ends = [*hundred_a_second(0, 5), *(answered(end.due, after) for end in hundred_a_second(5, 10))]
        assert reached(pinned(Observed(phases, {"others": ends}))) == [expected]


def test_a_quiet_client_is_to_be_answered_and_nearly_as_soon_as_alone():
    phases = {"alone": Span(0, 5), "flooded": Span(5, 10)}
    alone = hundred_a_second(0, 5)

    def judged(beside):
        return reached(quiet(Observed(phases, {"quiet": [*alone, *beside], "floods": []})))

    assert judged([answered(end.due, 0.09) for end in hundred_a_second(5, 10)]) == [True, True]
    assert judged([answered(end.due, 0.2) for end in hundred_a_second(5, 10)]) == [True, False]
    assert judged([refused(5.0), *hundred_a_second(5, 10)]) == [False, True]


def test_an_inversion_is_a_critical_request_refused_and_a_later_sheddable_one_answered():
    assert inversions([refused(1.0)], [answered(1.05)]) == 1
    # There is no inversion: the sheddable requests were sent earlier, were sent much later, or were not answered.
    assert inversions([refused(1.0)], [answered(0.99), answered(1.2), refused(1.01), given_up(1.02)]) == 0
    assert inversions([answered(1.0)], [answered(1.05)]) == 0
    # An inversion depends on the times of sending, not on the due times.
    assert inversions([End(REFUSED, 0.1, 0.2, 1.0)], [answered(1.05)]) == 0


def test_a_spike_is_judged_by_what_happens_in_it():
    phases = {"before": Span(0, 5), "spike": Span(5, 10)}
    sheddable = hundred_a_second(5, 10, refused)
    fine = Observed(phases, {"critical": [refused(1.0), *hundred_a_second(5, 10)], "sheddable": sheddable})
    assert reached(spike(fine)) == [True, True]
    bad = Observed(phases, {"critical": hundred_a_second(5, 10, refused), "sheddable": hundred_a_second(5, 10)})
    assert reached(spike(bad)) == [False, False]


def stepped(*workers, ends=()):
    phases = {"before": Span(0, 5), "step": Span(5, 10)}
    return Observed(phases, {"all": [*hundred_a_second(5, 10), *ends]}, [Workers(*each) for each in workers])


def test_the_slots_of_a_step_are_to_be_there_soon_and_little_is_to_be_lost():
    assert reached(step(stepped((4.9, 1), (5.2, 4), (5.4, 8)))) == [True, True]
    assert reached(step(stepped((4.9, 1), (5.2, 4), (5.9, 8)))) == [False, True]
    assert reached(step(stepped((4.9, 1), (5.2, 4)))) == [False, True]
    lost = hundred_a_second(6, 6.5, refused)
    assert reached(step(stepped((4.9, 1), (5.2, 8), ends=lost))) == [True, False]


def test_a_step_of_computing_is_to_add_a_worker_at_most():
    assert [check.figure for check in step_cpu(stepped((4.9, 1), (5.2, 2), (7.0, 1)))] == [1]
    assert reached(step_cpu(stepped((4.9, 1), (5.2, 3)))) == [False]
    assert reached(step_cpu(stepped())) == [False]


def steady(load, useful=100, refusal=0.002, slowest=0.1, others=0.0):
    ends = [answered(0.0, slowest)] * useful + [refused(0.0, refusal)] * 10
    return Point(load, 1.0, summed_up(ends, 0.1, 5), 0.5, others)


def steady_results(*points):
    results = Results(costs={"cpu": Costs(0.005, 0.00005)})
    results.entry("cpu", "intralb").points += points
    return results


def test_the_goals_of_steady_loads_are_judged_where_they_are_worst():
    fine = [*steady_checks(steady_results(steady(0.8), steady(10.0, slowest=0.25)), "cpu")]
    assert [check.figure for check in fine] == pytest.approx([100 / 110 * 100, 2.5, 2])
    assert reached(fine) == [False, True, True]
    bad = [*steady_checks(steady_results(steady(0.8, 200), steady(10.0, 30, 0.2, 0.4)), "cpu")]
    assert reached(bad) == [False, False, False]
    assert "at 10 times" in bad[0].what


def test_a_goal_that_was_judged_by_a_spoilt_point_says_so():
    checks = [*steady_checks(steady_results(steady(0.8), steady(10.0, others=0.5)), "cpu")]
    assert [bool(check.remark) for check in checks] == [False, True, False]


def test_a_goal_that_was_judged_by_few_about_the_capacity_says_that_chance_decides():
    few, many = steady(1.0, useful=190), steady(1.0, useful=9900)
    assert "7.1 % more or less" in next(steady_checks(steady_results(few), "cpu")).remark
    assert not next(steady_checks(steady_results(many), "cpu")).remark
    # Far above the capacity, chance has no influence: there are always enough requests.
    assert not next(steady_checks(steady_results(steady(2.0, useful=190)), "cpu")).remark


def test_what_was_not_measured_is_not_judged():
    assert [*steady_checks(Results(), "cpu")] == []
    assert len([*steady_checks(steady_results(steady(1.0)), "cpu")]) == 2


# Tests of the whole command.

PEERS = [name for name in ("waitress", "gunicorn", "pywsgi-nodelay") if not missing(SERVERS[name])][:1]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    return {name: tmp_path_factory.mktemp(name) for name in ("all", "stall")}


@pytest.fixture(scope="module")
def runs(directories):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processes are pinned on Linux only")
    arguments = {
        "all": ("--shorten", 15),
        "stall": ("--scenarios", "stall", "--servers", "intralb", *PEERS, "--shorten", 5),
    }
    made = Runs(
        {name: ("overload", "scenarios", *which, "--output", directories[name]) for name, which in arguments.items()}
    )
    yield made
    made.end()


@pytest.fixture
def played(runs, directories):
    return *runs["all"], directories["all"]


@pytest.fixture
def courses(played):
    code, _, errors, directory = played
    assert code == 0, errors
    return {name: plays["intralb"].course for name, plays in load(directory / "overload.json", from_json).plays.items()}


def test_every_scenario_is_played_and_judged(played, courses):
    assert [*courses] == [*SCENARIOS]
    for name, course in courses.items():
        assert [*course.phases] == [*SCENARIOS[name].phases]
        assert course.checks
        for check in course.checks:
            assert f"{check.sentence}\n" in played[1]


def test_each_request_counts_once_and_is_in_the_chart(played, courses):
    for name, course in courses.items():
        sent = sum(seen.sent for phase in course.seen.values() for seen in phase.values())
        offered = sum(sum(line.offered) for line in course.timelines.values())
        assert sent == offered <= course.attempts.sent
        texts = {text.text for text in ElementTree.parse(played[3] / f"scenario-{name}.svg").iter()}
        assert {f"{stream}: useful" for stream in course.timelines} <= texts


def test_only_who_may_ask_again_does(courses):
    again = {
        name: course.attempts.sent - sum(sum(line.offered) for line in course.timelines.values())
        for name, course in courses.items()
    }
    assert again.pop("stall") > 0
    assert set(again.values()) == {0}


def test_workers_are_watched_where_the_scenario_is_about_them(courses):
    assert {name for name, course in courses.items() if course.workers} == {"step", "step-cpu"}
    for name in ("step", "step-cpu"):
        moments = [each.at for each in courses[name].workers]
        assert moments == sorted(moments)
        assert min(each.number for each in courses[name].workers) >= 1


def test_scenarios_can_be_shown_again(played, tmp_path):
    _, output, _, directory = played
    again = run("overload", "--from", directory / "overload.json", "--output", tmp_path)
    assert (again[0], again[1]) == (0, output)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("overload.json", "overload.md"),
        *(f"scenario-{name}.svg" for name in SCENARIOS),
    }


@linux
def test_a_stalled_database_answers_nobody_whatever_the_server(runs, directories):
    code, _, errors = runs["stall"]
    assert code == 0, errors
    for play in load(directories["stall"] / "overload.json", from_json).plays["stall"].values():
        useful = play.course.timelines["all"].useful
        (begin, end), before = play.course.phases["stall"], play.course.phases["before"]
        assert any(useful[int(before.begin * 10) : int(before.end * 10)])
        # Ignore the edges of the stall: requests that run at its start, or wait at its end, can still be useful.
        assert not any(useful[int(begin * 10) + 2 : int(end * 10) - 6])


def test_a_scenario_that_could_not_be_played_says_why(tmp_path):
    (tmp_path / "failed.json").write_text(as_json(Results(plays={"burst": {"intralb": Play(failure="it fell over")}})))
    code, output, _ = run("overload", "--from", tmp_path / "failed.json")
    assert code == 1
    assert "could not play it: it fell over" in output
    assert not (tmp_path / "scenario-burst.svg").exists()
