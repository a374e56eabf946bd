"""Storm scenario for redis-py: a query, a pause and a transaction; each run has its own connection name."""

from __future__ import annotations

import os
from typing import Any

import gevent
import redis
from slowline import SlowLine, keep_little

from intralb_gevent import SessionSource
from intralb_gevent.integrations.redis import RedisSessions

ADDRESS = os.environ["INTRALB_TEST_REDIS"]
LARGE = 1_000_000
RUN = ""


class TakesLittle(redis.Connection):
    """A connection whose sender must wait, because the socket has a small buffer."""

    def _connect(self) -> Any:
        connected = super()._connect()
        keep_little(connected.fileno())
        return connected


class SlowForSome(RedisSessions):
    """A session source that connects the first worker's sessions through a `SlowLine`."""

    def __init__(self, url: str, **kwargs: Any) -> None:
        super().__init__(url, **kwargs)
        self.slow = RedisSessions(SlowLine(url).url, connection_class=TakesLittle, **kwargs)

    def open(self, worker_id: int) -> redis.Redis:
        return super().open(worker_id) if worker_id != 1 else self.slow.open(worker_id)


def asked(command: str, *arguments: Any) -> Any:
    """Run a command on a separate connection."""
    with redis.Redis.from_url(ADDRESS) as client:
        return client.execute_command(command, *arguments)


def source(run: str) -> SessionSource:
    global RUN
    RUN = run
    return SlowForSome(ADDRESS, client_name=run, socket_timeout=60)


def clean(run: str) -> None:
    asked("DEL", f"{run}:answered")


def connections(run: str) -> int:
    return sum(client["name"] == run for client in asked("CLIENT LIST"))


def work(session: Any, question: Any, stage: Any) -> tuple[int, int]:
    """Echo the question, store its number, and count it in the same transaction."""
    with stage("statement"):
        payload = session.echo(f"{question.number} {question.payload}")
    number, _, text = payload.decode().partition(" ")
    gevent.sleep(0.001)
    with stage("commit"), session.pipeline() as pipeline:
        pipeline.sadd(f"{RUN}:answered", number)
        pipeline.ping()
        pipeline.execute()
    return int(number), len(text)


def linger(session: Any) -> None:
    session.blpop(f"{RUN}:never", 30)


def verify(run: str, answered: list[int]) -> list[str]:
    """Return the jobs that were answered although their number is missing."""
    lost = set(answered) - {int(number) for number in asked("SMEMBERS", f"{run}:answered")}
    return [f"{len(lost)} jobs were answered, but what they have committed is not there"] if lost else []
