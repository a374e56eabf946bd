"""A sample application with profiles and counters in memcached; the python-memcached client is a thread-local."""

import os
import time
from typing import Any

import memcache

from .web import LONG, Request, site, stage

client = memcache.Client([os.environ["LEGACY_MEMCACHED"]], socket_timeout=20)
STEP = 1_000_000_000
"""Factor for the initial values of counters: a user's counter starts at this factor times the user's number."""


def wait(user: int) -> None:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        client.get(f"profile-{user}")


def look(request: Request) -> dict[str, Any]:
    user, number = request.user, request.number
    stage(request, "connect", lambda: wait(user))
    profile = client.get(f"profile-{user}")
    stage(request, "look", lambda: wait(user))
    several = client.get_multi([f"profile-{user}", f"cart-{user}"])
    owners = [profile and profile["owner"], *(value["owner"] for value in several.values())]
    return {"numbers": [number], "owners": owners}


def pay(request: Request) -> dict[str, Any]:
    user, number = request.user, request.number
    answer = look(request)
    client.set(f"request-{number}", {"number": number, "text": "x" * 1000}, time=60)
    stage(request, "half", lambda: wait(user))
    visits = client.incr(f"visits-{user}")
    stage(request, "commit", lambda: wait(user))
    back = client.get(f"request-{number}")
    return {"numbers": [back and back["number"]], "owners": [*answer["owners"], visits and visits // STEP]}


application = site(look=look, pay=pay)
