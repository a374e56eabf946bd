"""Support for redis-py clients as sessions; the client of each slot has separate connections.

redis-py uses Python's sockets, so redis-py waits cooperatively once gevent has patched the sockets.
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
"""Commands that leave state on a connection, such as a transaction, a subscription or a selected database."""

_UNDONE = {"EXEC": {"MULTI", "WATCH"}, "DISCARD": {"MULTI", "WATCH"}, "UNWATCH": {"WATCH"}}
"""Commands that clear state on a connection, mapped to the commands whose state is cleared."""

_ENDED = "this client belonged to a request that has ended; call current_session() in each request"


class SlotConnection(AbstractConnection):  # type: ignore[misc]  # the driver's types are not used
    """A mixin for redis-py's connection classes; it records the state that a request has left on the connection."""

    given_up = False
    """True if the connection must not reconnect, even if a client still refers to it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.left: set[str] = set()
        """Names of the commands that have left state on this connection."""
        super().__init__(*args, **kwargs)

    def send_command(self, *args: Any, **kwargs: Any) -> Any:
        """Send one command, and record the state that it leaves on the connection."""
        super().send_command(*args, **kwargs)
        # Record the command after sending it, because sending may connect first, which clears the record.
        self._heed(args)

    def pack_commands(self, commands: Any) -> Any:
        """Encode the commands of a pipeline, and record the state that they leave on the connection."""
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
        """Connect if necessary; a fresh connection has no recorded state."""
        self._connecting(super().connect, *args, **kwargs)

    def connect_check_health(self, *args: Any, **kwargs: Any) -> Any:
        """Connect as `connect` does; some versions of redis-py call this method directly."""
        self._connecting(super().connect_check_health, *args, **kwargs)

    def _connecting(self, connect: Any, *args: Any, **kwargs: Any) -> None:
        """Connect, and clear the recorded commands, because the state that the handshake sets is intended."""
        fresh = self._sock is None
        connect(*args, **kwargs)
        if fresh:
            self.left.clear()

    def _connect(self) -> Any:
        if self.given_up:
            raise redis.ConnectionError(_ENDED)
        return super()._connect()


def _name(command: tuple[Any, ...]) -> str:
    """Return the name of a command; for CLIENT, include the subcommand.

    redis-py passes CLIENT and its subcommand as one argument or as two.
    """
    first = command[0].decode() if isinstance(command[0], bytes) else str(command[0])
    words = first.upper().split()
    if words != ["CLIENT"]:
        return " ".join(words[: 1 + (words[0] == "CLIENT")])
    return f"CLIENT {str(command[1]).upper()}"


@cache
def _kept_by_a_slot(kind: type) -> type:
    return type(f"Slot{kind.__name__}", (SlotConnection, kind), {})


class SlotPool(redis.ConnectionPool):  # type: ignore[misc]  # the driver's types are not used
    """A slot's connections: usually one connection, but two while a pipeline watches keys or a subscription is open."""

    given_up = False

    def __init__(self, connection_class: type = redis.Connection, **kwargs: Any) -> None:
        super().__init__(connection_class=_kept_by_a_slot(connection_class), **kwargs)

    @property
    def usable(self) -> bool:
        """True if there are idle connections, and the server has closed none of them; the check takes no round trip."""
        idle = self._available_connections
        # An idle connection is readable if the server has closed the connection. With client-side caching (redis-py
        # 5.1), an idle connection is also readable if the server has sent an invalidation.
        may_be_invalidation = getattr(self, "cache", None) is not None
        return bool(idle) and (may_be_invalidation or not any(connection.can_read() for connection in idle))

    def settle(self) -> None:
        """Drop all connections if any of them is still in use, or if a request has left state on any of them."""
        if self._in_use_connections or any(_inner(one).left for one in self._available_connections):
            self.drop()

    def give_up(self) -> None:
        """Disconnect permanently, so that a client to which a request still refers cannot reconnect."""
        self.given_up = True
        self.drop()

    def make_connection(self) -> Any:
        """Create a connection; raises `redis.ConnectionError` after `give_up`."""
        if self.given_up:
            raise redis.ConnectionError(_ENDED)
        return super().make_connection()

    def drop(self) -> None:
        """Disconnect all connections, and prevent their reuse."""
        for connection in (*self._available_connections, *self._in_use_connections):
            _inner(connection).given_up = True
        self.disconnect()
        self.reset()


def _inner(connection: Any) -> Any:
    """Return a connection without the wrapper that client-side caching adds."""
    return getattr(connection, "_conn", connection)


class RedisSessions(SessionSource):
    """A source of redis-py clients, one per slot: `Options(db_init_func=RedisSessions("redis://127.0.0.1:6379/0"))`.

    The arguments are those of `redis.Redis.from_url`. Each slot's client has its own connections, so no other request
    can receive the response to an interrupted command. If a request leaves state on its connections (a transaction, a
    watched key, a subscription, an unclosed pipeline, another database or user), these connections are closed when the
    request ends. The connections are also closed after an abort; the server then ends a blocking command such as BLPOP.

    Commands are not retried after an error unless `retry` is passed, as with `from_url`. There is no statement timeout,
    because Redis has none.
    """

    def __init__(self, url: str = "redis://127.0.0.1:6379/0", **kwargs: Any) -> None:
        self._url = url
        self._kwargs = kwargs

    def __repr__(self) -> str:
        parts = urlsplit(self._url)
        where = parts.netloc.rpartition("@")[2] + parts.path
        return f"<RedisSessions {parts.scheme}://{where}>"

    def open(self, worker_id: int) -> redis.Redis:
        """Return a new client that has pinged the server; raises `redis.RedisError` if the ping fails."""
        pool = SlotPool.from_url(self._url, **self._kwargs)
        try:
            client = redis.Redis(connection_pool=pool)
            client.ping()
        except BaseException:
            pool.give_up()
            raise
        return client

    def check(self, session: redis.Redis) -> bool:
        """Return True if neither end has closed the client's connection, without sending anything to the server."""
        return bool(session.connection_pool.usable)

    def reset(self, session: redis.Redis) -> None:
        """Drop the connections, without a round trip, if a request has left state on them."""
        session.connection_pool.settle()

    def discard(self, session: redis.Redis) -> None:
        """Disconnect the client permanently."""
        session.connection_pool.give_up()

    def close(self, session: redis.Redis) -> None:
        """Disconnect the client permanently."""
        session.connection_pool.give_up()
