"""A sample application whose pages use another server, over one `http.client` connection per thread."""

import http.client
import json
import os
import threading
import time
from typing import Any

from .web import LONG, Request, site, stage

HOST, PORT = os.environ["LEGACY_BACKEND"].split(":")
_local = threading.local()


def fetch(method: str, target: str) -> Any:
    if not hasattr(_local, "connection"):
        _local.connection = http.client.HTTPConnection(HOST, int(PORT), timeout=20)
    connection = _local.connection
    connection.request(method, target)
    return json.loads(connection.getresponse().read())


def wait(user: int) -> None:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        fetch("GET", f"/slow/{user}/0")


def look(request: Request) -> dict[str, Any]:
    stage(request, "connect", lambda: wait(request.user))
    page = fetch("GET", f"/page/{request.user}/{request.number}")
    stage(request, "look", lambda: wait(request.user))
    return {"numbers": [page["number"]], "owners": [page["owner"]]}


def pay(request: Request) -> dict[str, Any]:
    answer = look(request)
    stage(request, "half", lambda: wait(request.user))
    page = fetch("POST", f"/large/{request.user}/{request.number}")
    stage(request, "commit", lambda: wait(request.user))
    return {"numbers": [*answer["numbers"], page["number"]], "owners": [*answer["owners"], page["owner"]]}


application = site(look=look, pay=pay)
