"""An abort of a request that waits for a condition releases no lock of another request, and loses no notification."""

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
    """`Condition.wait()` ends by reacquiring the lock; if aborted there, `with` would release another holder's lock."""
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
    # The item arrives in the same iteration of the loop as the deadline of /short, which gevent sees first.
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
    """A notified waiter runs before it is aborted; otherwise, its notification would be lost."""
    served = serve_program(QUEUE, "--routes", "/short request_timeout_seconds=0.7", "--cleanup-seconds", "5")
    threads = [threading.Thread(target=served.get, args=(path,)) for path in ("/short", "/long")]
    for number, thread in enumerate(threads, 1):
        thread.start()
        served.wait_until(lambda number=number: served.get("/").body.count("waits") == number)
    assert served.get("/put").status == 200
    served.wait_until(lambda: "took" in served.get("/").body)
    # The handler is aborted as soon as it waits again.
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
    """An aborted waiter would leave the list of waiters only after it reacquires the lock, which the notifier holds."""
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


HANDED_OVER = """
import threading, time
LOCK, FREE, WAITING = threading.Lock(), ["token"], []

class Waiter:
    def __init__(self):
        self.token, self.event = None, threading.Event()

def take():
    with LOCK:
        if FREE:
            return FREE.pop()
        waiter = Waiter()
        WAITING.append(waiter)
    try:
        waiter.event.wait()
        return waiter.token
    except BaseException:
        with LOCK:
            if waiter in WAITING:
                WAITING.remove(waiter)
        raise

def give(token):
    with LOCK:
        if WAITING:
            waiter = WAITING.pop(0)
            waiter.token = token
            waiter.event.set()
        else:
            FREE.append(token)

def work():
    token = take()
    try:
        time.sleep(100)
    finally:
        give(token)

def compute():
    # The deadlines of all that wait pass meanwhile, and are found in one iteration of the loop.
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass

def app(environ, start_response):
    {"/work": work, "/compute": compute}.get(environ["PATH_INFO"], int)()
    start_response("200 OK", [])
    return [b"%d free, %d wait" % (len(FREE), len(WAITING))]
"""


def test_what_is_handed_over_with_an_event_is_not_lost_with_the_waiter_that_is_aborted(serve_program) -> None:
    """Pools such as httpcore's assign a connection to a waiter, and then set the waiter's event."""
    routes = ("--routes", "/work request_timeout_seconds=0.6")
    served = serve_program(HANDED_OVER, "--request-timeout-seconds", "20", *routes)
    threads = [threading.Thread(target=served.get, args=("/work",)) for _ in range(5)]
    for thread in threads:
        thread.start()
    served.wait_until(lambda: served.get("/").body == "0 free, 4 wait")
    assert served.get("/compute").status == 200
    for thread in threads:
        thread.join()
    served.wait_until(lambda: served.get("/").body == "1 free, 0 wait")


POOL = """
import queue, socket, time
POOL, EMPTY, SAID = queue.Queue(), queue.Queue(), []
OUTSIDE, INSIDE = socket.socketpair()
POOL.put("connection")

def receive():
    SAID.append("receives")
    INSIDE.recv(1)

def take():
    receive()
    connection = POOL.get()
    try:
        time.sleep(100)
    finally:
        POOL.put(connection)

def put():
    receive()
    EMPTY.put("item")
    time.sleep(100)

def wait():
    SAID.append("waits")
    EMPTY.get()

def wake():
    # The byte arrives in the same iteration of the loop as the deadline, which gevent sees first.
    OUTSIDE.send(b"x")
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass

def app(environ, start_response):
    {"/take": take, "/put": put, "/wait": wait, "/wake": wake}.get(environ["PATH_INFO"], int)()
    start_response("200 OK", [])
    return [f"{POOL.qsize()} {' '.join(SAID)}".encode()]
"""
SHORT = ("--routes", "/take request_timeout_seconds=0.7", "--routes", "/put request_timeout_seconds=0.7")


def test_what_a_queue_has_returned_is_not_lost_with_the_request_that_is_aborted(serve_program) -> None:
    """gevent's locks yield in `Condition.notify()`, which `Queue.get()` calls when it has already removed the item."""
    served = serve_program(POOL, *SHORT)
    taking = threading.Thread(target=served.get, args=("/take",))
    taking.start()
    served.wait_until(lambda: "receives" in served.get("/").body)
    assert served.get("/wake").status == 200
    taking.join()
    served.wait_until(lambda: served.get("/").body.startswith("1"))


def test_a_request_that_is_aborted_after_it_has_put_an_item_notifies_the_waiter(serve_program) -> None:
    served = serve_program(POOL, *SHORT, "--request-timeout-seconds", "20")
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda path=path: statuses.append(served.get(path).status))
        for path in ("/wait", "/put")
    ]
    threads[0].start()
    served.wait_until(lambda: "waits" in served.get("/").body)
    threads[1].start()
    served.wait_until(lambda: "receives" in served.get("/").body)
    assert served.get("/wake").status == 200
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 504]
