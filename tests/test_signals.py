"""Tests of signals from operators, tools and terminals: some end the server, and some reach the application."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import pytest

# Split the text, so that a traceback that shows this line does not count as a call of the handler.
OWN = r"lambda *_: os.write(2, b'own handler ' + b'called\n')"


def test_signals_for_other_servers_do_not_end_or_stop_this_one(serve_app) -> None:
    server = serve_app()
    answer = server.asked("/wait/0.5")
    for name in ("SIGHUP", "SIGUSR2", "SIGALRM", "SIGTTIN", "SIGTTOU"):
        server.signal(getattr(signal, name))
        server.until(lambda name=name: f"{name} is ignored" in server.said)
    assert answer() == 200
    assert server.get() == 200


def test_a_signal_of_the_terminal_is_ignored_by_the_kernel_from_the_second_one_on(serve_app) -> None:
    server = serve_app()
    server.signal(signal.SIGTTOU)
    server.until(lambda: "SIGTTOU is ignored" in server.said)
    ignored = pathlib.Path(f"/proc/{server.process.pid}/status").read_text().partition("SigIgn:")[2].split()[0]
    assert int(ignored, 16) >> (signal.SIGTTOU - 1) & 1


def test_sigquit_shuts_down_as_sigterm_does(serve_app) -> None:
    server = serve_app()
    answer = server.asked("/wait/0.5")
    server.signal(signal.SIGQUIT)
    assert answer() == 200
    assert server.ended() == 0
    assert "SIGQUIT: finishing 1 request, at most 5 s" in server.said


@pytest.mark.parametrize("mode", ["a", "w"])
def test_sigusr1_reopens_log_files_and_truncates_none(serve_app, mode: str) -> None:
    server = serve_app(f"""
        shop = logging.getLogger("shop")
        shop.addHandler(logging.FileHandler("shop.log", {mode!r}))

        @at
        def log():
            shop.error("record")
    """)
    log, rotated = server.directory / "shop.log", server.directory / "shop.log.1"
    server.get("/log")
    server.signal(signal.SIGUSR1)
    server.until(lambda: "SIGUSR1: reopened 1 log files" in server.said)
    server.get("/log")
    assert log.read_text() == "record\n" * 2
    log.rename(rotated)
    server.signal(signal.SIGUSR1)
    server.until(lambda: server.said.count("SIGUSR1: reopened 1 log files") == 2)
    server.get("/log")
    assert (rotated.read_text(), log.read_text()) == ("record\n" * 2, "record\n")


@pytest.mark.parametrize(
    "installed",
    [
        f"signal.signal(signal.SIGTERM, {OWN})",
        f"gevent.signal_handler(signal.SIGTERM, {OWN})",
        f"signal.signal(signal.SIGTERM, lambda *_: [({OWN})(), sys.exit(3)])",
        f"signal.signal(signal.SIGTERM, lambda *_: [({OWN})(), time.sleep(0.01), 1 / 0])",
    ],
    ids=["signal", "gevent", "exits", "waits and fails"],
)
def test_handlers_of_the_application_are_called_and_the_shutdown_is_graceful(serve_app, installed: str) -> None:
    server = serve_app(installed)
    answer = server.asked("/wait/0.5")
    server.signal(signal.SIGTERM)
    assert answer() == 200
    assert server.ended() == 0
    assert server.said.count("own handler called") == 1
    assert ("ZeroDivisionError" in server.said) == ("1 / 0" in installed)


def test_a_handler_that_calls_the_one_it_has_replaced_is_called_once(serve_app) -> None:
    server = serve_app(f"""
        earlier = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda *arguments: [({OWN})(), earlier(*arguments)])
    """)
    answer = server.asked("/wait/0.5")
    server.signal(signal.SIGINT)
    assert answer() == 200
    assert server.ended() == 0
    assert server.said.count("own handler called") == 1


def test_an_application_that_ignores_sigterm_is_shut_down_all_the_same(serve_app) -> None:
    server = serve_app("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    answer = server.asked("/wait/0.5")
    server.signal(signal.SIGTERM)
    assert answer() == 200
    assert server.ended() == 0


@pytest.mark.parametrize("how", ["signal.signal", "gevent.signal_handler"])
def test_a_handler_that_a_request_installs_does_not_keep_the_server_from_its_shutdown(serve_app, how: str) -> None:
    server = serve_app(f"""
        @at
        def install():
            {how}(signal.SIGTERM, {OWN})
    """)
    server.get("/install")
    answer = server.asked("/wait/0.5")
    server.signal(signal.SIGTERM)
    assert answer() == 200
    assert server.ended() == 0
    assert server.said.count("own handler called") == 1


@pytest.mark.parametrize("action", ["SIG_IGN", "SIG_DFL"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGQUIT"])
def test_a_signal_that_a_request_ignores_for_a_moment_is_not_lost(serve_app, name: str, action: str) -> None:
    server = serve_app(f"""
        from signal import getsignal, signal as set_handler

        @at
        def write():
            earlier = set_handler(signal.{name}, signal.{action})
            try:
                assert getsignal(signal.{name}) is signal.{action}
                time.sleep(0.5)
            finally:
                assert set_handler(signal.{name}, earlier) is signal.{action}
            assert getsignal(signal.{name}) is earlier
    """)
    answer = server.asked("/write")
    server.signal(getattr(signal, name))
    assert answer() == 200
    assert server.ended() == 0


def test_what_a_request_sets_for_good_is_not_called_after_it_was_taken_back(serve_app) -> None:
    server = serve_app(f"""
        @at
        def ignore():
            signal.signal(signal.SIGTERM, {OWN})
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    """)
    server.get("/ignore")
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert "own handler called" not in server.said


def test_a_handler_of_a_request_that_calls_the_replaced_one_does_not_force_the_shutdown(serve_app) -> None:
    server = serve_app(f"""
        signal.signal(signal.SIGTERM, {OWN})

        @at
        def chain():
            earlier = signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, lambda *arguments: earlier(*arguments))
    """)
    server.get("/chain")
    answer = server.asked("/wait/0.5")
    server.signal(signal.SIGTERM)
    assert answer() == 200
    assert server.ended() == 0
    assert server.said.count("own handler called") == 1


def test_what_is_no_handler_is_refused_as_ever(serve_app) -> None:
    server = serve_app("""
        @at
        def refuse():
            for wrong in (None, 5, "x"):
                try:
                    signal.signal(signal.SIGTERM, wrong)
                except TypeError:
                    continue
                os._exit(3)

            def elsewhere():
                try:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                except ValueError:
                    return "main thread"

            assert gevent.get_hub().threadpool.apply(elsewhere) == "main thread"
    """)
    assert server.get("/refuse") == 200


def test_a_watcher_of_gevent_that_a_request_stops_takes_no_handler_with_it(serve_app) -> None:
    server = serve_app(f"""
        own = gevent.signal_handler(signal.SIGTERM, {OWN})

        @at
        def cancel():
            own.cancel()
    """)
    server.get("/cancel")
    answer = server.asked("/wait/0.5")
    server.signal(signal.SIGTERM)
    assert answer() == 200
    assert server.ended() == 0
    assert "own handler called" not in server.said


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT", "SIGUSR1"])
@pytest.mark.parametrize("installed", ["signal.signal(NUMBER, OWN)", "gevent.signal_handler(NUMBER, OWN)"])
def test_other_signals_with_a_handler_of_the_application_are_left_to_it(serve_app, name: str, installed: str) -> None:
    server = serve_app(installed.replace("NUMBER", f"signal.{name}").replace("OWN", OWN))
    server.signal(getattr(signal, name))
    server.until(lambda: "own handler called" in server.said)
    assert server.get() == 200
    assert name not in server.said


def test_a_signal_that_faulthandler_has_is_left_to_it(serve_app) -> None:
    server = serve_app("import faulthandler; faulthandler.register(signal.SIGUSR1)")
    server.signal(signal.SIGUSR1)
    server.until(lambda: "most recent call first" in server.said)
    assert server.get() == 200
    assert "reopened" not in server.said


def test_what_nohup_ignores_stays_ignored(serve_app) -> None:
    server = serve_app(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    server.signal(signal.SIGHUP)
    assert server.get() == 200
    assert "SIGHUP" not in server.said


def test_a_signal_that_interrupts_handlers_keeps_that_meaning(serve_app) -> None:
    extra = """
        @at
        def compute():
            while True:
                pass
    """
    server = serve_app(extra, flags=("--interrupt-signal", "SIGUSR1", "--request-timeout-seconds", "0.3"))
    assert server.get("/compute") == 504
    assert "SIGUSR1" not in server.said.partition("serving")[2]


def test_a_signal_that_a_handler_raises_for_itself_meets_a_computing_handler_too(serve_app) -> None:
    server = serve_app("""
        @at
        def compute():
            os.kill(os.getpid(), signal.SIGTERM)
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                pass
    """)
    assert server.get("/compute") == 200
    assert server.ended() == 0


# Tests of exceptions that look like effects of a signal, but have other causes.

TIMEOUTS = """
    import _thread
    from _thread import interrupt_main

    def interrupted_after(seconds):
        timer = threading.Timer(seconds, interrupt_main)
        timer.start()
        return timer

    @at
    def caught():
        timer = interrupted_after(0.05)
        began = time.monotonic()
        try:
            time.sleep(5)
        except KeyboardInterrupt:
            assert time.monotonic() - began < 3
        else:
            raise AssertionError("was not interrupted")
        finally:
            timer.cancel()

    @at
    def itself():
        try:
            _thread.interrupt_main()
        except KeyboardInterrupt:
            return
        raise AssertionError("was not interrupted")

    @at
    def uncaught():
        interrupted_after(0.05)
        time.sleep(5)

    @at
    def leave():
        interrupted_after(0.4)

    @at
    def left():
        interrupted_after(0.4)
        time.sleep(5)

    @at
    def native():
        gevent.get_hub().threadpool.apply(_thread.interrupt_main)
"""


def test_a_request_that_interrupts_the_main_thread_interrupts_itself_and_nothing_else(serve_app) -> None:
    server = serve_app(TIMEOUTS)
    innocent = server.asked("/wait/1")
    assert [server.get(path) for path in ("/caught", "/itself", "/uncaught", "/native")] == [200, 200, 500, 200]
    server.until(lambda: "outside of a running request" in server.said)
    assert innocent() == 200
    server.signal(signal.SIGINT)
    assert server.ended() == 0


@pytest.mark.parametrize(("path", "status"), [("/leave", 200), ("/left", 504)])
def test_a_timer_that_has_outlived_its_request_interrupts_no_other(serve_app, path: str, status: int) -> None:
    one_slot = ("--max-workers", "1", "--min-workers", "1", "--max-concurrent-per-router", "1")
    server = serve_app(TIMEOUTS, flags=(*one_slot, "--request-timeout-seconds", "0.2", "--stream-timeout-seconds", "5"))
    assert server.get(path) == status
    for _ in range(5):
        assert server.get("/wait/0.1") == 200
    assert server.process.poll() is None


# In forked processes.


def test_a_forked_child_of_a_handler_dies_of_sigterm_and_the_server_does_not_notice(serve_app) -> None:
    server = serve_app("""
        @at
        def fork():
            child = os.fork()
            if child == 0:
                get_original("time", "sleep")(5)
                os._exit(0)
            os.kill(child, signal.SIGHUP)
            _, status = os.waitpid(child, 0)
            assert os.WTERMSIG(status) == signal.SIGHUP

            child = os.fork()
            if child == 0:
                get_original("time", "sleep")(5)
                os._exit(0)
            os.kill(child, signal.SIGTERM)
            _, status = os.waitpid(child, 0)
            assert os.WTERMSIG(status) == signal.SIGTERM
    """)
    assert server.get("/fork") == 200
    assert server.get() == 200
    assert "SIG" not in server.said.partition("serving")[2]


PREFORK = """
from gevent import monkey
monkey.patch_all()
import os, sys
from intralb_gevent import LoadBalancer, WSGIServer, graceful_shutdown

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]

server = WSGIServer(("127.0.0.1", 0), LoadBalancer(application))
server.init_socket()
graceful_shutdown(server)
child = os.fork()
if child == 0:
    print(os.getpid(), server.server_port, flush=True)
    server.serve_forever()
    print("served", flush=True)
else:
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


def test_a_server_that_was_forked_before_it_serves_is_shut_down_by_signals(run_python) -> None:
    program = run_python("-c", PREFORK)
    child, program.port = map(int, program.until(lambda: program.printed).split())
    assert program.get() == 200
    os.kill(child, signal.SIGTERM)
    assert program.ended() == 0
    assert program.printed.split()[2:] == ["served", "0"]


# In a program.

IN_A_PROGRAM = """
from gevent import monkey
monkey.patch_all()
import os, signal, sys
import gevent
from intralb_gevent import LoadBalancer, WSGIServer, graceful_shutdown

reader, writer = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(writer)
before = [signal.getsignal(number) for number in range(1, 32)]

server = WSGIServer(("127.0.0.1", 0), LoadBalancer(lambda environ, start_response: []))
server.start()
shutdown = graceful_shutdown(server)
os.kill(os.getpid(), signal.SIGHUP)
gevent.sleep(0.01)
assert os.read(reader, 100) == bytes([signal.SIGHUP])

signal.signal(signal.SIGTERM, signal.signal(signal.SIGTERM, signal.SIG_IGN))
gevent.spawn(shutdown.request)
server.serve_forever()
assert [signal.getsignal(number) for number in range(1, 32)] == before
assert signal.set_wakeup_fd(-1) == writer
assert os.path.exists(f"/proc/self/fd/{reader}")
print("as before")
"""


def test_a_shutdown_that_the_program_requests_leaves_signals_as_they_were(run_python) -> None:
    program = run_python("-c", IN_A_PROGRAM)
    assert (program.ended(), program.printed) == (0, "as before\n"), program.said


def test_a_thread_that_is_not_the_main_one_is_refused_and_changes_nothing() -> None:
    program = """
from gevent import monkey
import gevent, signal
from intralb_gevent import LoadBalancer, WSGIServer, graceful_shutdown

def elsewhere():
    server = WSGIServer(("127.0.0.1", 0), LoadBalancer(lambda environ, start_response: []))
    try:
        graceful_shutdown(server)
    except ValueError as error:
        print(error)

gevent.get_hub().threadpool.apply(elsewhere)
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert "main thread" in done.stdout


def test_a_signal_that_another_thread_receives_wakes_an_idle_loop(serve_app) -> None:
    server = serve_app("""
        sent, received = [], []

        def elsewhere():
            for _ in range(9):
                get_original("time", "sleep")(0.13)
                sent.append(time.monotonic())
                signal.pthread_kill(get_original("_thread", "get_ident")(), signal.SIGUSR2)
            get_original("time", "sleep")(1)
            delays = [end - start for start, end in zip(sent, received)]
            os.write(2, b"median delay: %f" % sorted(delays)[4])

        signal.signal(signal.SIGUSR2, lambda *_: received.append(time.monotonic()))

        @at
        def send():
            get_original("_thread", "start_new_thread")(elsewhere, ())
    """)
    server.get("/send")
    server.until(lambda: "median delay" in server.said)
    assert float(server.said.partition("median delay: ")[2]) < 0.03


# Timers of requests.

TIMERS = """
    from signal import ITIMER_PROF, ITIMER_REAL, ITIMER_VIRTUAL, alarm, setitimer

    def ring(*_):
        raise RuntimeError("the payment took too long")

    for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF):
        signal.signal(number, ring)

    @at
    def timers():
        running = [signal.getitimer(which) for which in (ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF)]
        assert running == [(0.0, 0.0)] * 3, running

    @at
    def compute():
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            pass
"""
DEADLINE = ("--max-workers=1", "--max-concurrent-per-router=2", "--request-timeout-seconds=1")


@pytest.mark.parametrize(
    "setting",
    [
        *("alarm(60)", "signal.alarm(60)", "setitimer(ITIMER_REAL, 60)", "signal.setitimer(ITIMER_REAL, 60, 60)"),
        *("setitimer(ITIMER_VIRTUAL, 60)", "setitimer(ITIMER_PROF, 60, 60)"),
    ],
)
def test_a_timer_that_an_aborted_request_has_set_is_stopped(serve_app, setting: str) -> None:
    server = serve_app(TIMERS, f"at(lambda: [{setting}, time.sleep(20)])", flags=DEADLINE)
    assert server.get("/<lambda>") == 504
    assert server.get("/timers") == 200


def test_a_timeout_of_an_aborted_request_does_not_hit_another_that_computes(serve_app) -> None:
    server = serve_app(TIMERS, "at(lambda: [signal.setitimer(ITIMER_REAL, 1.3), time.sleep(20)])", flags=DEADLINE)
    assert server.get("/<lambda>") == 504
    assert [server.get("/compute") for _ in range(4)] == [200] * 4


def test_a_timeout_that_a_request_has_not_cancelled_does_not_hit_another(serve_app) -> None:
    server = serve_app(TIMERS, "at(lambda: alarm(60))", flags=DEADLINE)
    assert server.get("/<lambda>") == 200
    assert server.get("/timers") == 200


KEPT_TIMERS = {
    "set before the requests": (TIMERS, "setitimer(ITIMER_REAL, 60)", "at(lambda: time.sleep(20))"),
    "one that repeats, of a request that has ended": (
        TIMERS,
        "once = iter([lambda: setitimer(ITIMER_REAL, 60, 60)])",
        "at(lambda: next(once, lambda: time.sleep(20))())",
    ),
    "set again by its handler": (
        TIMERS,
        """
            def again(*_):
                setitimer(ITIMER_REAL, 60)

            signal.signal(signal.SIGALRM, again)
            at(lambda: [signal.raise_signal(signal.SIGALRM), time.sleep(20)])
        """,
    ),
}


@pytest.mark.parametrize("parts", KEPT_TIMERS.values(), ids=KEPT_TIMERS)
def test_a_timer_that_is_no_request_s_timeout_is_left_alone(serve_app, parts: tuple[str, ...]) -> None:
    server = serve_app(*parts, flags=DEADLINE)
    assert 504 in [server.get("/<lambda>") for _ in range(2)]
    assert server.get("/timers") == 500


@pytest.mark.parametrize("timer", ["ITIMER_REAL", "ITIMER_PROF"])
def test_a_timer_that_still_runs_at_the_exit_does_not_kill_the_process(serve_app, timer: str) -> None:
    ticking = f"""
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, lambda *_: None)
        signal.setitimer(signal.{timer}, 0.0005, 0.0005)
    """
    server = serve_app(ticking)
    assert server.get("/") == 200
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
