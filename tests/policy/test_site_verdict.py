"""The verdict on a site: the worst of all processes, with the process that has the problem."""

from dataclasses import replace

from intralb_gevent.policy.sentences import Verdict
from intralb_gevent.policy.siteverdict import OfProcess, SiteLoad, received, silent, site_verdict

LOAD = SiteLoad(3, 30.0, 4, 30)
WELL = Verdict("well", "well", 0.0, "All is well: 10 requests a second, 1 of 10 slots busy.")
BLOCKED = Verdict("warning", "blocked", 4.0, "Blocked: code kept the event loop.", "The longest was GET /pdf.")
FULL = Verdict("alarm", "overloaded", 9.0, "Overloaded: the general lane is over capacity.")


def test_all_is_well_sums_up_the_processes() -> None:
    verdict = site_verdict(OfProcess(1, WELL), [], LOAD)
    assert verdict.text == "All is well: 30 requests a second, 4 of 30 slots busy, in 3 processes."


def test_a_high_rate_has_no_exponent() -> None:
    assert (
        "12,346 requests a second"
        in site_verdict(OfProcess(1, WELL), [], LOAD._replace(requests_per_second=12345.6)).text
    )
    assert (
        "0.8 requests a second" in site_verdict(OfProcess(1, WELL), [], LOAD._replace(requests_per_second=0.799)).text
    )


def test_a_single_process_is_not_named() -> None:
    assert site_verdict(OfProcess(1, BLOCKED), [], LOAD._replace(processes=1)) == BLOCKED


def test_the_process_with_the_problem_is_named_and_the_others_are_well() -> None:
    verdict = site_verdict(OfProcess(1, WELL), [OfProcess(2, BLOCKED)], LOAD)
    assert verdict.text == "Blocked in process 2: code kept the event loop."
    assert (verdict.level, verdict.place) == ("warning", BLOCKED.place)
    assert verdict.unaffected == "The other 2 processes are well."


def test_the_most_severe_comes_first_and_equal_problems_are_counted() -> None:
    others = [OfProcess(2, FULL), OfProcess(3, replace(FULL, seconds=20.0))]
    verdict = site_verdict(OfProcess(1, BLOCKED), others, LOAD)
    assert verdict.text == "Overloaded in 2 of 3 processes: the general lane is over capacity."
    assert verdict.place == "The numbers are those of process 3."
    assert verdict.unaffected == ""
    assert verdict.further == ("Blocked in process 1: code kept the event loop.",)


def test_a_problem_of_the_site_concerns_no_single_process() -> None:
    failed = Verdict("warning", "reload_failed", 1.0, "The reload failed: no module. The earlier processes go on.")
    assert site_verdict(OfProcess(1, failed), [OfProcess(2, failed)], LOAD) == failed


def test_verdicts_survive_their_way_through_the_table() -> None:
    assert received(2, {**FULL.as_dict(), "new": 1}) == OfProcess(2, FULL)
    assert received(2, {"level": "alarm"}) is None
    assert "has not run for 12 s" in silent(2, 12.0).verdict.text
