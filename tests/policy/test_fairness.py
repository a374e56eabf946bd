"""No client holds much more than an equal share of a full pool; clients that used less recently are served first."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent import Priority
from intralb_gevent.policy.fairness import Clients, in_rotation

NAMES = "abcdefgh"
KEYS = st.sampled_from(NAMES)
CLASSES = st.sampled_from([Priority.CRITICAL, Priority.SHEDDABLE])
STEPS = st.lists(st.tuples(KEYS, CLASSES, st.sampled_from(["admit", "begin", "end"]), st.floats(0, 2)), max_size=200)
Step = tuple[str, Priority, str, float]
CRITICAL = Priority.CRITICAL


class Jobs:
    """A model of a lane, which holds the jobs of each client and reports each step to `Clients`."""

    def __init__(self, steps: list[Step]) -> None:
        self.clients = Clients(0.0)
        self.waiting: Counter[tuple[str, Priority]] = Counter()
        self.running: Counter[str] = Counter()
        self.had = dict.fromkeys(NAMES, 0.0)
        self.now = 0.0
        for step in steps:
            self.step(*step)

    def step(self, key: str, priority: Priority, what: str, pause: float) -> None:
        self.now += pause
        self.had = {name: had * 2.718281828459045 ** (-pause / 5) for name, had in self.had.items()}
        if what == "admit":
            self.waiting[key, priority] += 1
            self.had[key] += 1
            self.clients.admit(key, priority, self.now)
        elif what == "begin" and self.waiting[key, priority]:
            self.waiting[key, priority] -= 1
            self.running[key] += 1
            self.clients.begin(key, priority)
        elif what == "end" and self.running[key]:
            self.running[key] -= 1
            self.clients.end(key, priority, began=True)
        elif what == "end" and self.waiting[key, priority]:
            self.waiting[key, priority] -= 1
            self.clients.end(key, priority, began=False)

    def held(self, key: str) -> int:
        return self.running[key] + sum(number for (name, _), number in self.waiting.items() if name == key)


@given(STEPS, KEYS, st.integers(1, 100))
def test_the_cap_is_two_or_twice_an_equal_share(steps: list[Step], key: str, limit: int) -> None:
    jobs = Jobs(steps)
    active = [name for name in NAMES if jobs.held(name)]
    assert jobs.clients.active == len(active)
    held = jobs.held(key)
    expected = active == [key] or held < max(2, 2 * limit / max(1, len(active)))
    assert jobs.clients.may_hold(key, limit) == (expected or held < 2)


@given(STEPS, KEYS, CLASSES)
def test_the_one_with_most_waiting_makes_room_and_of_equals_the_one_that_had_most(
    steps: list[Step], key: str, priority: Priority
) -> None:
    jobs = Jobs(steps)
    other = jobs.clients.eviction_candidate(key, priority, jobs.now)
    takes = {name: (jobs.waiting[name, priority], jobs.had[name]) for name in NAMES}
    number, had = takes[key][0] + 1, takes[key][1] + 1
    most = max(waiting for waiting, _ in takes.values())
    if other is None:
        assert number > most or (number == most and had > max(h for w, h in takes.values() if w == most) - 1e-6)
    else:
        assert takes[other][0] == most
        assert takes[other][1] > max(h for w, h in takes.values() if w == most) - 1e-6
        assert number < most or had < takes[other][1] + 1e-6


@given(STEPS, KEYS)
def test_a_place_that_was_taken_is_not_taken_back(steps: list[Step], one: str) -> None:
    jobs = Jobs(steps)
    other = jobs.clients.eviction_candidate(one, CRITICAL, jobs.now)
    assert other != one
    if isinstance(other, str):
        jobs.step(other, CRITICAL, "begin", 0.0)
        jobs.step(one, CRITICAL, "admit", 0.0)
        assert jobs.clients.eviction_candidate(other, CRITICAL, jobs.now) != one


@given(STEPS, KEYS, st.sampled_from(Priority), st.integers(1, 20))
def test_only_what_is_beyond_a_share_makes_room_for_a_lower_class_and_it_does_not_come_back(
    steps: list[Step], key: str, priority: Priority, limit: int
) -> None:
    jobs = Jobs(steps)
    crowd = {name for name in NAMES if jobs.held(name)} | {key}
    share = max(2, 2 * limit / len(crowd))
    beyond = [
        (name, higher)
        for (name, higher), number in jobs.waiting.items()
        if number and higher < priority and name != key and jobs.held(name) - 1 >= share
    ]
    victim = jobs.clients.makes_room_below(key, priority, limit)
    if victim is None:
        assert not beyond
        return
    assert victim in beyond
    other, higher = victim
    assert higher == max(higher for _, higher in beyond)
    jobs.clients.end(other, higher, began=False)
    jobs.clients.admit(key, priority, jobs.now)
    assert not jobs.clients.may_hold(other, limit)


@given(STEPS, KEYS, st.integers(1, 20))
def test_a_client_is_beyond_its_share_with_a_job_more_than_it_may_hold(steps: list[Step], key: str, limit: int) -> None:
    jobs = Jobs(steps)
    beyond = jobs.clients.beyond_share(key, limit)
    if jobs.held(key):
        jobs.clients.end(key, CRITICAL, began=True)
        assert beyond == (not jobs.clients.may_hold(key, limit) and jobs.held(key) > 1)
    else:
        assert not beyond


@given(STEPS)
def test_all_is_forgotten_in_the_end(steps: list[Step]) -> None:
    jobs = Jobs(steps)
    for key in NAMES:
        for priority in (Priority.CRITICAL, Priority.SHEDDABLE):
            while jobs.running[key] or jobs.waiting[key, priority]:
                jobs.step(key, priority, "end", 0.0)
    jobs.clients.forget(jobs.now + 60)
    assert jobs.clients.eviction_candidate("a", CRITICAL, jobs.now + 60) is None
    assert repr(jobs.clients) == "<Clients 0 active, 0 known>"


def test_an_hour_of_it_is_as_good_as_a_minute() -> None:
    clients = Clients(1000.0)
    for second in range(4000):
        now = 1000.0 + second
        for key, times in (("flood", 3), ("quiet", 1)):
            for _ in range(times):
                clients.admit(key, CRITICAL, now)
                clients.begin(key, CRITICAL)
                clients.end(key, CRITICAL, began=True)
        clients.forget(now)
        clients.admit("flood", CRITICAL, now)
        assert clients.eviction_candidate("quiet", CRITICAL, now) == "flood"
        clients.end("flood", CRITICAL, began=False)


def test_a_quiet_client_goes_before_sixteen_that_take_what_they_can_get() -> None:
    # One job is served per step. Flooding clients always have a queued job; the quiet client sends one every 17
    # steps.
    clients, now = Clients(0.0), 0.0
    flooding = [f"flood {number}" for number in range(16)]
    for turn in range(2000):
        now += 0.005
        taken = flooding[turn % 16]
        clients.admit(taken, CRITICAL, now)
        clients.begin(taken, CRITICAL)
        clients.end(taken, CRITICAL, began=True)
        if turn % 20 == 0 and turn > 400:
            waiting = flooding[(turn + 3) % 16]
            clients.admit(waiting, CRITICAL, now)
            assert clients.eviction_candidate("quiet", CRITICAL, now) == waiting
            clients.end(waiting, CRITICAL, began=False)
            clients.admit("quiet", CRITICAL, now)
            assert clients.eviction_candidate(waiting, CRITICAL, now) is None
            clients.begin("quiet", CRITICAL)
            clients.end("quiet", CRITICAL, began=True)


def test_who_was_given_places_has_had_them_though_another_took_them() -> None:
    clients = Clients(0.0)
    for _ in range(3):
        clients.admit("flood", CRITICAL, 0.0)
        clients.end("flood", CRITICAL, began=False)
    clients.admit("flood", CRITICAL, 0.0)
    assert clients.eviction_candidate("quiet", CRITICAL, 0.0) == "flood"
    clients.admit("quiet", CRITICAL, 0.0)
    clients.begin("flood", CRITICAL)
    assert clients.eviction_candidate("flood", CRITICAL, 0.0) is None


@given(st.lists(st.sampled_from("abcde"), max_size=50))
def test_whatever_number_is_kept_no_client_keeps_two_more_than_another_that_loses_one(clients: list[str]) -> None:
    order = in_rotation(clients)
    assert sorted(order) == list(range(len(clients)))
    for kept in range(len(clients) + 1):
        keeps = Counter(clients[index] for index in order[:kept])
        loses = Counter(clients[index] for index in order[kept:])
        assert max(keeps.values(), default=0) <= min((keeps[client] for client in loses), default=99) + 1


@given(st.lists(st.sampled_from("abcde"), max_size=50))
def test_of_one_client_the_oldest_are_kept(clients: list[str]) -> None:
    order = in_rotation(clients)
    for client in "abcde":
        own = [index for index in order if clients[index] == client]
        assert own == sorted(own)
