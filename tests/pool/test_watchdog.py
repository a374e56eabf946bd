"""CPU-bound handlers are aborted at their deadline, too, and a handler that blocks the hub is reported."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import LoadBalancer, Options, Route
from intralb_gevent.aborts.safepoints import in_application
from intralb_gevent.pool.abortable import MOST_ABORTS, MOST_INTERRUPTS
from intralb_gevent.pool.channel import ResponseCut

TIMEOUT = 0.1
NUMBER = Options().interrupt_signal


def finished(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]


def handlers(**functions: Callable[[], object]):
    """Return an application that calls the function named by the path before it responds."""

    def application(environ, start_response):
        functions.get(environ["PATH_INFO"][1:], lambda: None)()
        return finished(environ, start_response)

    return application


def compute() -> None:
    count = 0
    while True:
        count += 1


def swallow(kind: type[BaseException], times: int) -> list[BaseException]:
    """Compute forever, and swallow the first `times` exceptions of this kind."""
    swallowed: list[BaseException] = []
    while len(swallowed) < times:
        try:
            compute()
        except kind as error:
            swallowed.append(error)
    return swallowed


# Python code that never waits.


@pytest.mark.parametrize(
    "handler",
    [compute, lambda: swallow(Exception, 100), lambda: swallow(BaseException, 1), lambda: swallow(BaseException, 2)],
    ids=["a loop", "except Exception", "swallowed once", "swallowed twice"],
)
def test_a_handler_that_only_computes_is_cut_and_its_neighbours_go_on(balance, asking, handler) -> None:
    routes = [Route("/loop", request_timeout_seconds=TIMEOUT)]
    balancer = balance(handlers(loop=handler), request_timeout_seconds=20, routes=routes)
    began = time.monotonic()
    loop, neighbour = asking(balancer, "loop", "neighbour")
    assert loop.get().status == "504 Gateway Timeout"
    assert time.monotonic() - began >= TIMEOUT
    assert neighbour.get().status == "200 OK"
    snapshot = balancer.snapshot()
    assert (snapshot.outcomes["timed_out"], snapshot.outcomes["completed"]) == (1, 1)
    assert (snapshot.given_up, snapshot.interrupts) == (0, "on")


def test_one_that_computes_between_waits_is_cut_as_well(balance, asking) -> None:
    def handler() -> None:
        while True:
            gevent.sleep(0)
            sum(range(1000))

    balancer = balance(handlers(loop=handler), request_timeout_seconds=TIMEOUT)
    (request,) = asking(balancer, "loop")
    assert request.get().status == "504 Gateway Timeout"


def test_a_body_that_is_computed_for_ever_is_cut(balance) -> None:
    closed = []

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            yield b"begun"
            compute()
        finally:
            closed.append(True)

    balancer = balance(application, stream_idle_timeout_seconds=TIMEOUT)
    result = balancer({"REQUEST_METHOD": "GET"}, lambda status, headers: None)
    assert next(result) == b"begun"
    with pytest.raises(Exception, match="the response was cut"):
        next(result)
    assert closed == [True]


def test_a_body_that_is_sent_for_ever_is_cut_and_others_have_their_turn_meanwhile(balance, asking) -> None:
    parts = []

    def endless():
        while True:
            parts.append(b"x" * 1024)
            yield parts[-1]

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return endless() if environ["PATH_INFO"] == "/endless" else [b"done"]

    routes = [Route("/endless", stream_timeout_seconds=4 * TIMEOUT)]
    balancer = balance(application, request_timeout_seconds=20, routes=routes)
    result = balancer({"REQUEST_METHOD": "GET", "PATH_INFO": "/endless"}, lambda status, headers: None)
    (neighbour,) = asking(balancer, "neighbour")
    with pytest.raises(ResponseCut):
        b"".join(result)
    assert neighbour.value.status == "200 OK"
    assert len(parts) > 1


def test_nobody_is_interrupted_before_its_time(balance, asking) -> None:
    def busy() -> None:
        end = time.monotonic() + 4 * TIMEOUT
        while time.monotonic() < end:
            pass

    balancer = balance(handlers(busy=busy), request_timeout_seconds=20)
    assert [request.get().status for request in asking(balancer, "busy", "busy")] == ["200 OK"] * 2


def test_code_in_c_is_cut_as_soon_as_it_returns(balance, asking) -> None:
    after = []

    def handler() -> None:
        sum(range(50_000_000))
        while True:
            after.append(True)

    balancer = balance(handlers(sum=handler), request_timeout_seconds=TIMEOUT)
    (request,) = asking(balancer, "sum")
    assert request.get().status == "504 Gateway Timeout"
    # The handler ran only for a short time, not forever.
    assert len(after) < 1_000_000


# Stubborn code.


def test_what_computes_and_swallows_every_abort_is_left_alone(balance, asking, eventually, caplog) -> None:
    balancer = balance(
        handlers(uncancellable=lambda: swallow(BaseException, 10**9)),
        request_timeout_seconds=TIMEOUT,
        cleanup_seconds=0.01,
        max_workers=1,
        max_concurrent_per_router=1,
    )
    for count in (1, 2):
        uncancellable, waiting = asking(balancer, "uncancellable", "waiting")
        assert uncancellable.get().status == "504 Gateway Timeout"
        waiting.get()
        eventually(lambda count=count: balancer.snapshot().given_up == count)
    assert asking(balancer, "then")[0].get().status == "200 OK"
    snapshot = balancer.snapshot()
    assert snapshot.given_up == 2
    assert snapshot.submitted == snapshot.ended == 5
    assert (snapshot.workers[0].slots, snapshot.running) == (1, 0)
    eventually(lambda: caplog.text.count("GET /uncancellable cannot be ended") == 2)


def test_the_record_does_not_blame_a_handler_for_finalizers_that_swallow_aborts(
    balance, ask, eventually, caplog, monkeypatch
) -> None:
    # Python reports each exception of a finalizer.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)

    class Waits:
        def __del__(self) -> None:
            gevent.sleep(60)

    def innocent() -> None:
        for _ in range(MOST_ABORTS + 1):
            Waits()

    balancer = balance(handlers(innocent=innocent), request_timeout_seconds=TIMEOUT, cleanup_seconds=0.01)
    assert ask(balancer, "/innocent").status == "504 Gateway Timeout"
    eventually(lambda: "GET /innocent cannot be ended" in caplog.text)
    assert "by its handler or by finalizers (__del__, weakref callbacks) that ran in it" in caplog.text


def test_what_was_given_up_does_not_compute_again_when_its_own_timeout_is_over(balance, asking, eventually) -> None:
    swallowed: list[BaseException] = []

    def uncancellable() -> None:
        with gevent.Timeout(8 * TIMEOUT, False):
            while True:
                try:
                    compute()
                except BaseException as error:
                    swallowed.append(error)

    balancer = balance(handlers(uncancellable=uncancellable), request_timeout_seconds=TIMEOUT, cleanup_seconds=0.01)
    (request,) = asking(balancer, "uncancellable")
    assert request.get().status == "504 Gateway Timeout"
    eventually(lambda: balancer.snapshot().given_up == 1)
    before = len(swallowed)
    gevent.sleep(10 * TIMEOUT)
    assert len(swallowed) == before
    assert asking(balancer, "then")[0].get().status == "200 OK"


def test_what_waits_and_swallows_every_abort_has_its_slot_replaced(balance, asking, eventually) -> None:
    swallowed, go_on = [], Event()

    def uncancellable() -> None:
        while not go_on.is_set():
            try:
                go_on.wait()
            except BaseException as error:
                swallowed.append(error)

    balancer = balance(
        handlers(uncancellable=uncancellable),
        request_timeout_seconds=TIMEOUT,
        cleanup_seconds=0.01,
        max_workers=1,
        max_concurrent_per_router=1,
    )
    (request,) = asking(balancer, "uncancellable")
    assert request.get().status == "504 Gateway Timeout"
    eventually(lambda: balancer.snapshot().given_up == 1)
    assert len(swallowed) == MOST_ABORTS < MOST_INTERRUPTS
    assert asking(balancer, "then")[0].get().status == "200 OK"
    # Let the abandoned handler return; its greenlet must not be treated as a slot again.
    go_on.set()
    gevent.sleep(0)
    assert [request.get().status for request in asking(balancer, "1", "2")] == ["200 OK"] * 2
    assert balancer.snapshot().workers[0].slots == 1


def test_a_retiring_worker_does_not_wait_for_what_was_given_up(balance, asking, eventually) -> None:
    def uncancellable() -> None:
        while True:
            try:
                Event().wait()
            except BaseException as error:
                str(error)

    balancer = balance(
        handlers(uncancellable=uncancellable),
        request_timeout_seconds=TIMEOUT,
        cleanup_seconds=0.01,
        min_workers=1,
        max_workers=2,
    )
    balancer.resize(2)
    gevent.joinall(asking(balancer, "uncancellable", "uncancellable"))
    balancer.resize(1)
    eventually(lambda: len(balancer.snapshot().workers) == 1)
    assert asking(balancer, "then")[0].get().status == "200 OK"


def test_what_cleans_up_has_time_to_wait(balance, asking, eventually) -> None:
    cleaned = []

    def handler() -> None:
        try:
            Event().wait()
        finally:
            gevent.sleep(4 * TIMEOUT)
            cleaned.append(True)

    balancer = balance(handlers(tidy=handler), request_timeout_seconds=TIMEOUT)
    (request,) = asking(balancer, "tidy")
    assert request.get().status == "504 Gateway Timeout"
    assert eventually(lambda: cleaned)


def without_line() -> None:
    """Compute in a loop whose jump has no line number on Python 3.11 and 3.12. Signal handlers run after this jump."""
    numbers = iter(range(10**9))
    while True:
        for _ in range(30):
            next(numbers) if numbers else None


def test_a_handler_is_cut_and_logged_at_an_instruction_without_a_line(balance, asking, eventually, caplog) -> None:
    balancer = balance(handlers(loop=without_line), request_timeout_seconds=TIMEOUT)
    answers = [asking(balancer, "loop")[0].get() for _ in range(3)]
    assert [answer.status for answer in answers] == 3 * ["504 Gateway Timeout"]
    eventually(lambda: "its deadline has passed" in caplog.text)
    assert "line None" not in caplog.text


def test_a_finally_block_may_finish_even_at_an_instruction_without_a_line(balance, asking, eventually) -> None:
    cleaned: list[bool] = []

    def handler() -> None:
        numbers = iter(range(10**9))
        end = time.monotonic() + 5 * TIMEOUT
        try:
            next(numbers)
        finally:
            while time.monotonic() < end:
                for _ in range(3000):
                    next(numbers) if numbers else None
            cleaned.append(True)

    balancer = balance(handlers(tidy=handler), request_timeout_seconds=TIMEOUT, cleanup_seconds=10)
    (request,) = asking(balancer, "tidy")
    assert request.get().status == "504 Gateway Timeout"
    assert eventually(lambda: cleaned)


# The end of the server.


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_the_end_of_the_server_binds_a_handler_that_computes(balance, asking, eventually, seconds: float) -> None:
    ended: list[str] = []

    def handler() -> None:
        try:
            balancer.intake.end_by(time.monotonic() + seconds)
            compute()
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    balancer = balance(handlers(loop=handler), request_timeout_seconds=20)
    (request,) = asking(balancer, "loop")
    answer = request.get()
    assert (answer.status, answer.headers["X-Intralb-Reason"]) == ("503 Service Unavailable", "killed")
    assert eventually(lambda: ended) == ["RequestKilled"]
    assert balancer.drain(0) == 1


# Reports of code that blocks the hub.


def test_who_keeps_the_hub_is_logged_with_path_and_place(balance, asking, eventually, caplog) -> None:
    def busy() -> None:
        end = time.monotonic() + 0.15
        while time.monotonic() < end:
            pass

    balancer = balance(handlers(busy=busy), request_timeout_seconds=20)
    gevent.joinall(asking(balancer, "first"))
    # Wait for a measurement, because the first one begins in the middle of an iteration and is dropped.
    eventually(lambda: balancer.snapshot().hub_lag.count)
    gevent.joinall(asking(balancer, "busy", "innocent"))
    eventually(lambda: "GET /busy kept the event loop from all other work for 0." in caplog.text)
    record = next(record for record in caplog.records if "/busy" in record.message)
    assert record.levelno == logging.WARNING
    # From Python 3.14 on, the jump back to the start of the loop belongs to the line of `pass`.
    assert re.search(r"in busy\n    (while time\.monotonic\(\) < end:|pass)", record.message)
    assert "slot.py" not in record.message
    assert "innocent" not in caplog.text
    snapshot = balancer.snapshot()
    assert snapshot.hub_blocked == 1
    assert snapshot.hub_lag.longest >= 0.15


def test_code_in_c_that_keeps_the_hub_is_logged_too(balance, asking, eventually, caplog) -> None:
    def busy() -> None:
        end = time.monotonic() + 0.15
        while time.monotonic() < end:
            sum(range(3_000_000))

    balancer = balance(handlers(busy=busy), request_timeout_seconds=20)
    gevent.joinall(asking(balancer, "busy"))
    eventually(lambda: "GET /busy kept the event loop" in caplog.text)
    assert "in busy" in caplog.text


def test_a_wait_in_c_is_logged_with_the_line_that_waits(balance, asking, eventually, caplog) -> None:
    library = ctypes.CDLL(None)

    def blocked() -> list[int]:
        library.usleep(200_000)
        return sorted(range(1000))

    gevent.joinall(asking(balance(handlers(blocked=blocked), request_timeout_seconds=20), "blocked"))
    eventually(lambda: "GET /blocked kept the event loop" in caplog.text)
    assert "library.usleep(200_000)" in caplog.text


def test_many_short_requests_are_not_taken_for_a_long_one(balance, asking, caplog) -> None:
    def busy() -> None:
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            pass

    balancer = balance(handlers(busy=busy), request_timeout_seconds=20)
    gevent.joinall(asking(balancer, *["busy"] * 20))
    assert "kept the event loop" not in caplog.text


def test_other_greenlets_that_keep_the_hub_are_logged_as_such(balance, ask, eventually, caplog) -> None:
    def background() -> None:
        end = time.monotonic() + 0.15
        while time.monotonic() < end:
            pass

    ask(balance(finished))
    gevent.spawn(background).join()
    eventually(lambda: "code outside of requests kept the event loop" in caplog.text)
    assert "in background" in caplog.text


def test_one_that_only_sends_is_told_of_once(balance, eventually, caplog) -> None:
    def sending(environ, start_response):
        write = start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1000000000")])
        while True:
            write(b"")

    # Empty parts must not count as output.
    balancer = balance(sending, stream_idle_timeout_seconds=4 * TIMEOUT)
    with pytest.raises(ResponseCut):
        b"".join(balancer({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda status, headers: None))
    gevent.sleep(0)
    assert caplog.text.count("kept the event loop") <= 1


# Points at which an abort is allowed.


class Asked(logging.Filter):
    """A logging filter that records whether an abort is allowed at the point where logging calls the filter."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[bool] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.answers.append(in_application(sys._getframe()))
        return False


def test_an_abort_lands_in_the_application_but_not_within_logging_or_other_delicate_modules(balance, ask) -> None:
    answers = {}

    def application(environ, start_response):
        answers["handler"] = in_application(sys._getframe())
        answers["library"] = json.loads("[1]", parse_int=lambda text: in_application(sys._getframe()))[0]
        asked, log = Asked(), logging.getLogger("of the test")
        log.addFilter(asked)
        log.error("something")
        answers["logging"] = asked.answers[0]
        return finished(environ, start_response)

    ask(balance(application))
    assert answers == {"handler": True, "library": True, "logging": False}
    assert not in_application(sys._getframe())


# The signal.


@pytest.fixture
def earlier() -> Iterator[list[int]]:
    """Install a signal handler before the watchdog installs its own; return the list of calls of the former."""
    received: list[int] = []
    before = signal.signal(NUMBER, lambda number, frame: received.append(number))
    yield received
    # The thread of a watchdog that has ended may be about to send its last signal, which would end the process.
    signal.signal(NUMBER, signal.SIG_IGN if before is signal.SIG_DFL else before)


class Finalized:
    """An object with a finalizer, which takes half of the time in code that creates many such objects in turn."""

    begun = done = 0

    def __del__(self) -> None:
        count_and_spend()


def count_and_spend() -> None:
    Finalized.begun += 1
    spend(TIMEOUT / 10)
    Finalized.done += 1


def spend(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def finalize_for_ever() -> None:
    while True:
        Finalized()
        spend(TIMEOUT / 10)


def collect_for_ever() -> None:
    def callback(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            count_and_spend()

    gc.callbacks.append(callback)
    try:
        while True:
            gc.collect(0)
            spend(TIMEOUT / 10)
    finally:
        gc.callbacks.remove(callback)


@pytest.mark.parametrize("handler", [finalize_for_ever, collect_for_ever])
def test_no_abort_lands_where_python_would_drop_it(balance, asking, handler) -> None:
    Finalized.begun = Finalized.done = 0
    balancer = balance(handlers(loop=handler), request_timeout_seconds=TIMEOUT)
    for _ in range(10):
        (request,) = asking(balancer, "loop")
        assert request.get().status == "504 Gateway Timeout"
    assert Finalized.begun == Finalized.done > 0


def test_signals_of_others_go_to_the_handler_that_was_there_before(ask, asking, earlier) -> None:
    balancer = LoadBalancer(handlers(loop=compute), Options(request_timeout_seconds=TIMEOUT))
    ask(balancer)
    signal.raise_signal(NUMBER)
    assert earlier == [NUMBER]
    assert asking(balancer, "loop")[0].get().status == "504 Gateway Timeout"
    balancer.drain(1)
    signal.raise_signal(NUMBER)
    assert earlier[-1] == NUMBER
    assert len(earlier) >= 2


def test_a_signal_that_comes_late_does_not_end_the_process(ask) -> None:
    balancer = LoadBalancer(finished)
    ask(balancer)
    balancer.drain(1)
    signal.raise_signal(NUMBER)
    assert signal.getsignal(NUMBER) is signal.SIG_IGN


def test_another_signal_can_be_chosen(balance, asking) -> None:
    balancer = balance(handlers(loop=compute), request_timeout_seconds=TIMEOUT, interrupt_signal="SIGRTMIN+13")
    assert asking(balancer, "loop")[0].get().status == "504 Gateway Timeout"


def test_two_balancers_share_one_watchdog(balance, asking, ask) -> None:
    first, second = (balance(handlers(loop=compute), request_timeout_seconds=TIMEOUT) for _ in range(2))
    ask(first), ask(second)
    first.drain(1)
    assert asking(second, "loop")[0].get().status == "504 Gateway Timeout"


@pytest.mark.parametrize("interrupt_signal", ["off", None])
def test_it_can_be_off_and_says_so(balance, asking, eventually, caplog, interrupt_signal) -> None:
    done = []

    def busy() -> None:
        end = time.monotonic() + 4 * TIMEOUT
        while time.monotonic() < end:
            pass
        done.append(True)

    balancer = balance(handlers(busy=busy), request_timeout_seconds=TIMEOUT, interrupt_signal=interrupt_signal)
    gevent.joinall(asking(balancer, "busy"))
    assert done == [True]
    assert balancer.snapshot().interrupts == "interrupt_signal is off"
    eventually(lambda: "a handler that never waits is not interrupted" in caplog.text)


def test_outside_of_the_main_thread_it_reports_itself_off(ask) -> None:
    snapshots = []

    def elsewhere() -> None:
        balancer = LoadBalancer(finished)
        assert ask(balancer).status == "200 OK"
        snapshots.append(balancer.snapshot())
        balancer.drain(1)
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(20)
    assert snapshots[0].interrupts == "signals are handled in the main thread only, and the server is in another thread"


WARMED_UP_AND_FORKED = """
from gevent import monkey
monkey.patch_all()
import os, signal, time
from intralb_gevent import LoadBalancer, Options

def application(environ, start_response):
    while environ["PATH_INFO"] == "/compute":
        pass
    if environ["PATH_INFO"] == "/exit":
        raise SystemExit
    start_response("200 OK", [])
    return [b"answered"]

def ask(path):
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path}
    list(balancer(environ, lambda status, headers: print(status, flush=True)))

balancer = LoadBalancer(application, Options(request_timeout_seconds=0.2, max_workers=1))
ask("/")
if os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
signal.alarm(15)  # ends it where nothing else does
time.sleep(0.01)  # as a server waits for its first connection
for path in ("/compute", "/", "/exit", "/"):
    ask(path)
"""


def test_a_process_that_was_forked_after_the_first_request_interrupts_too_and_survives_an_exit() -> None:
    command = [sys.executable, "-c", WARMED_UP_AND_FORKED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    statuses = ["200 OK", "504 Gateway Timeout", "200 OK", "500 Internal Server Error", "200 OK"]
    assert done.stdout.splitlines() == statuses


# Exceptions that end a handler without being errors.


@pytest.mark.parametrize("error", [SystemExit(3), gevent.GreenletExit(), KeyboardInterrupt(), BaseException()])
def test_whatever_a_handler_raises_ends_its_request_only(balance, asking, error: BaseException) -> None:
    def handler() -> None:
        raise error

    balancer = balance(handlers(leave=handler), max_workers=1, max_concurrent_per_router=1)
    assert asking(balancer, "leave")[0].get().status == "500 Internal Server Error"
    assert asking(balancer, "then")[0].get().status == "200 OK"
    assert balancer.snapshot().workers[0].slots == 1
