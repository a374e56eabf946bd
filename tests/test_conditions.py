"""An abort that is repeated gives back no lock that another request holds."""

from __future__ import annotations

import threading

APP = """
import threading, time
CONDITION = threading.Condition(threading.Lock())
INSIDE, MOST, WAITING = [], [0], []

def wait():
    with CONDITION:
        WAITING.append(True)
        CONDITION.wait()

def hold():
    with CONDITION:
        INSIDE.append(True)
        MOST[0] = max(MOST[0], len(INSIDE))
        time.sleep(0.4)
        INSIDE.pop()

def app(environ, start_response):
    {"/wait": wait, "/hold": hold}.get(environ["PATH_INFO"], int)()
    start_response("200 OK", [])
    return [b"%d of %d" % (MOST[0], len(WAITING))]
"""


def test_a_condition_takes_its_lock_back_before_its_with_block_gives_it_back(serve_program) -> None:
    """`Condition.wait()` ends by acquiring its lock; ended there, `with` would release it under its present holder."""
    routes = ("--routes", "/wait request_timeout_seconds=0.2")
    served = serve_program(APP, "--request-timeout-seconds", "20", "--cleanup-seconds", "0.05", *routes)
    statuses: list[int] = []
    holding = [threading.Thread(target=lambda: statuses.append(served.get("/hold").status)) for _ in range(3)]
    waiting = threading.Thread(target=served.get, args=("/wait",))
    waiting.start()
    served.wait_until(lambda: served.get("/")[1] == "0 of 1")
    for thread in holding:
        thread.start()
    for thread in (waiting, *holding):
        thread.join()
    assert statuses == [200] * 3
    assert served.get("/")[1] == "1 of 1"


QUEUE = """
import socket, threading, time
CONDITION, ITEMS, SAID = threading.Condition(), [], []
OUTSIDE, INSIDE = socket.socketpair()

def feed():
    while INSIDE.recv(1):
        with CONDITION:
            ITEMS.append(1)
            CONDITION.notify()

def take():
    with CONDITION:
        SAID.append("waits")
        while not ITEMS:
            CONDITION.wait()
        ITEMS.pop()
    SAID.append("took")

def take_and_work():
    take()
    try:
        time.sleep(100)
    finally:
        SAID.append("aborted")

def put():
    # The item comes in the same iteration of the loop as the deadline of /short, which gevent sees first.
    OUTSIDE.send(b"x")
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass

threading.Thread(target=feed, daemon=True).start()

def app(environ, start_response):
    {"/short": take_and_work, "/long": take, "/put": put}.get(environ["PATH_INFO"], int)()
    start_response("200 OK", [])
    return [" ".join(SAID).encode()]
"""


def test_a_notification_is_not_lost_with_the_waiter_that_is_aborted(serve_program) -> None:
    """A waiter that has been notified first runs; no other would be notified in its place."""
    served = serve_program(QUEUE, "--routes", "/short request_timeout_seconds=0.7", "--cleanup-seconds", "5")
    threads = [threading.Thread(target=served.get, args=(path,)) for path in ("/short", "/long")]
    for number, thread in enumerate(threads, 1):
        thread.start()
        served.wait_until(lambda number=number: served.get("/").body.count("waits") == number)
    assert served.get("/put").status == 200
    served.wait_until(lambda: "took" in served.get("/").body)
    # The abort follows as soon as it waits again.
    assert served.get("/").body == "waits waits took aborted"
    served.get("/put")
    for thread in threads:
        thread.join()


LATE = """
import threading, time
CONDITION, ITEMS, WAITING = threading.Condition(), [], []

def take():
    with CONDITION:
        WAITING.append(True)
        while not ITEMS:
            CONDITION.wait()
        return ITEMS.pop()

def put():
    with CONDITION:
        # The deadline of /short passes while this holds the lock.
        time.sleep(0.6)
        ITEMS.append(1)
        CONDITION.notify()

def app(environ, start_response):
    {"/short": take, "/long": take, "/put": put}.get(environ["PATH_INFO"], int)()
    start_response("200 OK", [])
    return [str(len(WAITING)).encode()]
"""


def test_a_waiter_that_has_been_aborted_takes_no_later_notification(serve_program) -> None:
    """It leaves the list of waiters only once it has its lock back, which the notifier holds."""
    served = serve_program(LATE, "--request-timeout-seconds", "5", "--routes", "/short request_timeout_seconds=0.4")
    statuses: dict[str, int] = {}
    threads = [
        threading.Thread(target=lambda path=path: statuses.update({path: served.get(path).status}))
        for path in ("/short", "/long", "/put")
    ]
    for number, thread in enumerate(threads):
        served.wait_until(lambda number=number: served.get("/").body == str(number))
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {"/short": 504, "/long": 200, "/put": 200}
