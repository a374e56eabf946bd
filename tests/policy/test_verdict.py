"""The rules of the verdict: each problem is recognized, nothing is alarmed when all is well, and words always fit."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.sentences import span, verdict
from intralb_gevent.policy.verdict import HOLD_SECONDS, Facts, Judge, LaneFacts, findings

CALM = LaneFacts(running=4, limit=10, ended=800, run_seconds=0.05, timeout_seconds=30.0)
FULL = replace(CALM, running=10, full_seconds=14.0, queued=6, oldest_seconds=0.4, ended=100)

counts = st.integers(0, 10_000)
times = st.floats(0.0, 1e6)
shares = st.floats(0.0, 1.0)
lanes = st.builds(
    LaneFacts,
    name=st.sampled_from(["", "/reports", "/api"]),
    running=counts,
    limit=st.integers(1, 10_000),
    streams=counts,
    queued=counts,
    oldest_seconds=times,
    full_seconds=times,
    stalled_seconds=times,
    run_seconds=times,
    timeout_seconds=times | st.just(float("inf")),
    ended=counts,
    failed=counts,
    late=counts,
    refused=counts,
    refused_per_second=times,
    reason=st.sampled_from(["", "overloaded", "queue_full"]),
    clients=counts,
    client=st.sampled_from(["", "10.0.0.7"]),
    client_share=shares,
    no_session=counts,
    abandoned=counts,
    may_grow=st.booleans(),
)
facts = st.builds(
    Facts,
    lanes=st.lists(lanes, min_size=1, max_size=3, unique_by=lambda lane: lane.name).map(tuple),
    condition=st.sampled_from(["serving", "draining", "stopped"]),
    loop_busy=shares,
    blockages=counts,
    blocked_seconds=times,
    longest_blocked_seconds=times,
    first_blocked_seconds=times,
    reload=st.sampled_from(["", "none", "running", "done", "failed"]),
    cause=st.sampled_from(["", "no module named shop"]),
    processes_ready=st.integers(0, 8),
    processes_wanted=st.integers(1, 8),
)


def kinds(*lanes: LaneFacts, **others) -> list[str]:
    return [finding.kind for finding in findings(Facts(lanes=lanes, **others))]


def words(*lanes: LaneFacts, **others) -> str:
    seen = Facts(lanes=lanes, **others)
    return verdict(seen, findings(seen), {}).text


def test_nothing_is_found_while_all_is_well() -> None:
    assert kinds(CALM, replace(CALM, name="/api")) == []
    assert words(CALM) == "All is well: 80 requests a second, 4 of 10 slots busy."
    assert kinds(replace(CALM, running=10, full_seconds=2.0, queued=3)) == []


def test_a_full_lane_that_refuses_is_overloaded() -> None:
    lane = replace(FULL, name="/reports", refused=310, refused_per_second=31.0, reason="overloaded")
    assert kinds(lane) == ["overloaded"]
    expected = "Overloaded: lane /reports has had all 10 slots busy for 14 s; 31/s are rejected (reason: overloaded)."
    assert words(lane) == expected


def test_rates_are_whole_numbers_or_have_one_decimal() -> None:
    lane = replace(FULL, refused=9, reason="no_time")
    assert "; 1,187/s are rejected" in words(replace(lane, refused_per_second=1187.3))
    assert "; 0.7/s are rejected" in words(replace(lane, refused_per_second=0.667))
    flood = replace(lane, clients=3, refused=9000, client="10.0.0.7", client_share=0.9, refused_per_second=1187.3)
    assert "90 % of the 1,187 requests a second that" in words(flood)


def test_advice_refers_to_a_place_only_if_one_is_named() -> None:
    seen = Facts((replace(FULL, refused=9, refused_per_second=3.0),))
    found = findings(seen)
    assert "the code at the place above" in verdict(seen, found, {found[0].key: "4 of 10 wait at shop.py:3."}).advice
    for lane in (
        seen.lanes[0],
        replace(FULL, stalled_seconds=14.0),
        replace(CALM, late=3),
        replace(FULL, may_grow=True),
    ):
        seen = Facts((lane,))
        assert "above" not in verdict(seen, findings(seen), {}).advice


def test_a_blocked_loop_has_been_blocked_since_its_first_blockage() -> None:
    seen = Facts((CALM,), blocked_seconds=4.0, blockages=1, longest_blocked_seconds=4.0, first_blocked_seconds=4.5)
    assert [each.seconds for each in Judge().review(seen, 100.0)] == [4.5]


def test_a_full_lane_that_completes_nothing_is_stuck_whether_it_refuses_or_not() -> None:
    stuck = replace(FULL, ended=0, stalled_seconds=14.0)
    assert kinds(stuck) == kinds(replace(stuck, refused=5, refused_per_second=1.0)) == ["stuck"]
    assert words(stuck) == "Stuck: the general lane has completed nothing for 14 s, with all 10 slots busy."


def test_slow_requests_are_not_stuck_before_three_times_their_run_time() -> None:
    slow = replace(FULL, run_seconds=5.0, stalled_seconds=14.0)
    assert kinds(slow) == ["busy"]
    assert kinds(replace(slow, stalled_seconds=15.0, full_seconds=15.0)) == ["stuck"]


def test_long_streams_are_not_stuck() -> None:
    assert "stuck" not in kinds(replace(FULL, ended=0, stalled_seconds=60.0, streams=9))


def test_a_blocked_loop_comes_before_the_overload_that_it_causes() -> None:
    over = replace(FULL, refused=9, refused_per_second=0.9)
    assert kinds(over, blocked_seconds=4.0, blockages=3, longest_blocked_seconds=1.6)[0] == "blocked"
    assert kinds(CALM, blocked_seconds=0.2, blockages=1, longest_blocked_seconds=0.2) == []


def test_one_client_with_most_of_the_refusals_floods_only_if_there_are_others() -> None:
    flood = replace(FULL, refused=300, refused_per_second=30.0, client="10.0.0.7", client_share=0.9)
    assert kinds(replace(flood, clients=3)) == ["flooded"]
    assert kinds(replace(flood, clients=1)) == ["overloaded"]
    assert "10.0.0.7 has sent 90 %" in words(replace(flood, clients=3))


def test_abandoned_slots_are_a_leak_and_an_alarm_once_they_are_many() -> None:
    assert [each.level for each in findings(Facts((replace(CALM, abandoned=1),)))] == ["warning"]
    assert [each.level for each in findings(Facts((replace(CALM, abandoned=5),)))] == ["alarm"]


def test_a_reload_is_a_notice_and_a_failed_one_a_warning_with_its_cause() -> None:
    running = Facts((CALM,), reload="running", processes_ready=3, processes_wanted=2)
    assert [(each.kind, each.level) for each in findings(running)] == [("reloading", "notice")]
    assert "no module named shop" in words(CALM, reload="failed", cause="no module named shop")


def test_lanes_without_findings_are_named_as_not_affected() -> None:
    seen = Facts((replace(FULL, refused=9, refused_per_second=3.0), replace(CALM, name="/api")))
    assert verdict(seen, findings(seen), {}).unaffected == "Lane /api is not affected."


@given(facts)
def test_every_finding_has_words_and_the_most_severe_is_first(seen: Facts) -> None:
    found = findings(seen)
    result = verdict(seen, found, {})
    assert result.text.endswith(".")
    assert len(result.further) == max(0, len(found) - 1)
    order = ["alarm", "warning", "notice"]
    assert [order.index(each.level) for each in found] == sorted(order.index(each.level) for each in found)


@given(facts)
def test_at_most_one_finding_concerns_the_pressure_on_a_lane(seen: Facts) -> None:
    pressing = [each for each in findings(seen) if each.kind in ("stuck", "flooded", "overloaded", "busy")]
    assert len({each.lane.name for each in pressing}) == len(pressing)


@given(st.lists(facts, min_size=1, max_size=6))
def test_neither_do_findings_that_are_retained_contradict_others(reviews: list[Facts]) -> None:
    judge = Judge()
    for now, seen in enumerate(reviews):
        found = judge.review(seen, float(now))
        pressing = [each.key[1] for each in found if each.kind in ("stuck", "flooded", "overloaded", "busy")]
        assert len(set(pressing)) == len(pressing)
        assert sum(each.kind in ("reloading", "reload_failed", "few_processes") for each in found) <= 1


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_a_finding_keeps_its_beginning_and_ends_some_seconds_after_its_cause(present: list[bool]) -> None:
    judge, began, last = Judge(), None, -100.0
    over = Facts((replace(CALM, refused=5, refused_per_second=1.0),))
    for now, is_there in enumerate(present):
        found = judge.review(over if is_there else Facts((CALM,)), float(now))
        if is_there:
            began, last = (now if now - last > HOLD_SECONDS else began), now
        assert bool(found) is (now - last <= HOLD_SECONDS)
        if found:
            assert found[0].seconds == now - began


@given(st.floats(0.0, 1e7))
def test_spans_are_short(seconds: float) -> None:
    assert len(span(seconds)) <= 8
