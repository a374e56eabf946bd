"""If a request is rejected before a job is created for it, that job would have been rejected for the same reason."""

from __future__ import annotations

from typing import Any

import gevent
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent import LoadBalancer, Options, Priority

WHO = st.tuples(st.sampled_from("abc"), st.sampled_from(list(Priority)))
STEPS = st.lists(st.tuples(st.sampled_from(["come", "come", "all end"]), st.integers(1, 9), WHO), max_size=12)


class Crowd:
    """A balancer with a small pool, requests from several clients with several priorities, and their outcomes."""

    connection_ratio = 0.0

    def __init__(self) -> None:
        self.end = Event()
        options = Options(max_workers=1, max_concurrent_per_router=3, queue_size=6, request_timeout_seconds=20)
        self.balancer = LoadBalancer(self._run, options)
        self.balancer.intake.attach(self)

    def _run(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.end.wait()
        start_response("200 OK", [])
        return []

    def comes(self, client: str, priority: Priority) -> tuple[str, str] | None:
        """Start a request; return its status and reason if it is rejected immediately, and None otherwise."""
        heads: list[tuple[str, str]] = []

        def start_response(status: str, headers: list[tuple[str, str]]) -> Any:
            heads.append((status, dict(headers).get("X-Intralb-Reason", "")))

        gevent.spawn(lambda: list(self.balancer(environ_of(client, priority), start_response)))
        gevent.sleep(0)
        return heads[0] if heads else None

    def is_judged(self, client: str, priority: Priority) -> None:
        answer = self.balancer.intake.shed_early(environ_of(client, priority))
        if answer is not None:
            assert self.comes(client, priority) == (answer.status, answer.reason)

    def all_end(self) -> None:
        """Let all running requests end."""
        self.end.set()
        self.end.clear()
        gevent.sleep(0)

    def close(self) -> None:
        self.end.set()
        self.balancer.drain(1)


def environ_of(client: str, priority: Priority) -> dict[str, Any]:
    word = priority.name.lower()
    return {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": client, "intralb.priority": word}


@given(STEPS, WHO)
def test_nobody_is_turned_away_who_would_have_had_a_place(steps, judged) -> None:
    crowd = Crowd()
    try:
        for what, times, who in steps:
            if what == "all end":
                crowd.all_end()
                continue
            for _ in range(times):
                crowd.comes(*who)
            crowd.is_judged(*judged)
    finally:
        crowd.close()
