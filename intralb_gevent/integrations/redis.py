"""Sessions that are redis-py clients, each with connections of its own.

Decides what a request may leave behind on a connection and when one is dropped. It must not know when that is asked:
`pool/session.py` does.

redis-py waits in Python's sockets, so it is cooperative once gevent has patched them.
"""

from __future__ import annotations

from functools import cache
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.connection import AbstractConnection

from ..sessionsource import SessionSource

__all__ = ["RedisSessions"]

_LASTING = frozenset(
    {
        *("ASKING", "AUTH", "HELLO", "MONITOR", "MULTI", "READONLY", "READWRITE", "RESET", "SELECT", "WATCH"),
        *("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"),
        *(f"CLIENT {what}" for what in ("CACHING", "NO-EVICT", "NO-TOUCH", "REPLY", "SETINFO", "SETNAME", "TRACKING")),
    }
)
"""The commands after which a connection is not as it was; of most others the server remembers nothing."""

_UNDONE = {"EXEC": {"MULTI", "WATCH"}, "DISCARD": {"MULTI", "WATCH"}, "UNWATCH": {"WATCH"}}
"""What is over after a command."""

_ENDED = "this client belonged to a request that has ended; call current_session() in each request"


class SlotConnection(AbstractConnection):  # type: ignore[misc]  # the driver's types are not used
    """What a connection is beside one of redis-py's kinds: it remembers what a request has left on it."""

    given_up = False
    """Whether it must not be connected again, whoever still has it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.left: set[str] = set()
        """The commands that still have an effect."""
        super().__init__(*args, **kwargs)

    def send_command(self, *args: Any, **kwargs: Any) -> Any:
        super().send_command(*args, **kwargs)
        # Afterwards, because it may have connected first.
        self._heed(args)

    def pack_commands(self, commands: Any) -> Any:
        commands = list(commands)
        for command in commands:
            self._heed(command)
        return super().pack_commands(commands)

    def _heed(self, command: tuple[Any, ...]) -> None:
        name = _name(command)
        if name in _LASTING:
            self.left.add(name)
        elif name in _UNDONE:
            self.left -= _UNDONE[name]

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        self._connecting(super().connect, *args, **kwargs)

    def connect_check_health(self, *args: Any, **kwargs: Any) -> Any:
        self._connecting(super().connect_check_health, *args, **kwargs)

    def _connecting(self, connect: Any, *args: Any, **kwargs: Any) -> None:
        """Connect; what the handshake has sent is how the connection should be."""
        fresh = self._sock is None
        connect(*args, **kwargs)
        if fresh:
            self.left.clear()

    def _connect(self) -> Any:
        if self.given_up:
            raise redis.ConnectionError(_ENDED)
        return super()._connect()


def _name(command: tuple[Any, ...]) -> str:
    """Return the name of a command, of CLIENT with what it is asked; redis-py gives that in one word or in two."""
    first = command[0].decode() if isinstance(command[0], bytes) else str(command[0])
    words = first.upper().split()
    if words != ["CLIENT"]:
        return " ".join(words[: 1 + (words[0] == "CLIENT")])
    return f"CLIENT {str(command[1]).upper()}"


@cache
def _kept_by_a_slot(kind: type) -> type:
    return type(f"Slot{kind.__name__}", (SlotConnection, kind), {})


class SlotPool(redis.ConnectionPool):  # type: ignore[misc]  # the driver's types are not used
    """The connections of one slot: one as a rule, another while a pipeline watches or a subscription is open."""

    given_up = False

    def __init__(self, connection_class: type = redis.Connection, **kwargs: Any) -> None:
        super().__init__(connection_class=_kept_by_a_slot(connection_class), **kwargs)

    @property
    def usable(self) -> bool:
        """Whether its connections are open and have nothing to say, as nobody has asked; without a round trip."""
        idle = self._available_connections
        # With a cache, which redis-py has had since 5.1, the server may tell of what has changed.
        told = getattr(self, "cache", None) is not None
        return bool(idle) and (told or not any(connection.can_read() for connection in idle))

    def settle(self) -> None:
        """Drop all connections if one of them is still in use or not as it was."""
        if self._in_use_connections or any(_inner(one).left for one in self._available_connections):
            self.drop()

    def give_up(self) -> None:
        """Disconnect for good: somebody may still have a client, and must not come back with it."""
        self.given_up = True
        self.drop()

    def make_connection(self) -> Any:
        if self.given_up:
            raise redis.ConnectionError(_ENDED)
        return super().make_connection()

    def drop(self) -> None:
        """Disconnect, and see to it that none of the connections there are is used again."""
        for connection in (*self._available_connections, *self._in_use_connections):
            _inner(connection).given_up = True
        self.disconnect()
        self.reset()


def _inner(connection: Any) -> Any:
    """Return the connection itself, if it is wrapped for client-side caching."""
    return getattr(connection, "_conn", connection)


class RedisSessions(SessionSource):
    """Gives each slot a redis-py client: `Options(db_init_func=RedisSessions("redis://127.0.0.1:6379/0"))`.

    Takes the arguments of `redis.Redis.from_url`. The connections of a client are its slot's own, so an interrupted
    answer cannot reach anyone else. A request that leaves something behind (a transaction, a watched key, a
    subscription, a pipeline not closed, another database or user) has its connections closed at its end. After an
    abort they are closed, too; the server then ends what they waited for (BLPOP).

    Nothing is repeated after an error unless `retry` is given, as with `from_url`. There is no statement timeout:
    Redis has none.
    """

    def __init__(self, url: str = "redis://127.0.0.1:6379/0", **kwargs: Any) -> None:
        self._url = url
        self._kwargs = kwargs

    def __repr__(self) -> str:
        parts = urlsplit(self._url)
        where = parts.netloc.rpartition("@")[2] + parts.path
        return f"<RedisSessions {parts.scheme}://{where}>"

    def open(self, worker_id: int) -> redis.Redis:
        """Return a new client that has reached the server; raises `redis.RedisError`."""
        pool = SlotPool.from_url(self._url, **self._kwargs)
        try:
            client = redis.Redis(connection_pool=pool)
            client.ping()
        except BaseException:
            pool.give_up()
            raise
        return client

    def check(self, session: redis.Redis) -> bool:
        """Say whether the client's connection is open and the server has not closed it, without asking the server."""
        return bool(session.connection_pool.usable)

    def reset(self, session: redis.Redis) -> None:
        """Drop connections that a request has left something on; costs no round trip."""
        session.connection_pool.settle()

    def discard(self, session: redis.Redis) -> None:
        """Disconnect for good."""
        session.connection_pool.give_up()

    def close(self, session: redis.Redis) -> None:
        """Disconnect for good."""
        session.connection_pool.give_up()
