"""A sample application: some pages leave a timeout or timer for their greenlet behind, and some pages wait."""

import random
import time
from typing import Any

import gevent

from .web import Request, site, stage


def soon() -> float:
    return random.uniform(0.001, 0.03)


def timeout_not_cancelled() -> None:
    gevent.Timeout(soon()).start()


def timeout_cancelled_on_the_good_path_only() -> None:
    timeout = gevent.Timeout(soon(), RuntimeError("the payment service timed out"))
    timeout.start()
    try:
        raise KeyError("no such payment")
        timeout.cancel()
    except KeyError:
        pass


def kill_later() -> None:
    gevent.spawn_later(soon(), gevent.getcurrent().kill, block=False)


def throw_later() -> None:
    gevent.get_hub().loop.timer(soon()).start(gevent.getcurrent().throw, RuntimeError("the time is up"))


LEFTOVERS = [timeout_not_cancelled, timeout_cancelled_on_the_good_path_only, kill_later, throw_later]


def look(request: Request) -> dict[str, Any]:
    stage(request, "look", lambda: time.sleep(30))
    time.sleep(random.uniform(0.0, 0.01))
    return {"numbers": [request.number], "owners": [request.user]}


def leave(request: Request) -> dict[str, Any]:
    random.choice(LEFTOVERS)()
    return {"numbers": [request.number], "owners": [request.user]}


application = site(look=look, pay=look, leave=leave)
