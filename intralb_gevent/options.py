"""What a balancer can be told: every setting, declared once.

A declaration holds the name, the default, the kind of value with its limits, and the help. From it come
the check at construction, and (in `settings.py`) the flag, the environment variable, the TOML key and the
table in docs/settings.md. This module decides what is a valid value; it must not know who reads the values
or what they do.
"""

# ruff: noqa: RUF009  # the calls in the class body declare fields, they are not shared defaults

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from ipaddress import ip_interface
from typing import Any

from .errors import LoadError, OptionError
from .loading import load_callable

__all__ = ["Declaration", "Kind", "Options", "declarations"]


class _BadEntry(ValueError):
    """One entry of a list is not allowed; the message names it and says what is."""


@dataclass(frozen=True)
class Kind:
    """A kind of value: what is allowed in words, and how to check it and read it from text."""

    allowed: str
    placeholder: str
    """Stands for the value where a flag is described."""
    convert: Callable[[Any], Any]
    """Takes a Python value, returns the one to keep; raises ValueError when it is not allowed."""
    parse: Callable[[str], Any]
    """Takes the text of a flag or variable, returns a Python value; raises ValueError when it cannot."""
    textual: bool = False
    """Whether a settings file, which has types of its own, writes it as text too."""

    def check(self, name: str, value: Any) -> Any:
        """Return the value to keep for the field `name`, or raise OptionError."""
        try:
            return self.convert(value)
        except _BadEntry as error:
            raise OptionError(f"{name}: {error}") from None
        except (ValueError, OverflowError):
            raise OptionError(f"{name}: {value!r} is not allowed; it must be {self.allowed}") from None

    def read(self, name: str, text: str) -> Any:
        """Return the value that `text` says for the field `name`, or raise OptionError."""
        try:
            return self.check(name, self.parse(text))
        except LoadError as error:
            raise OptionError(f"{name}: {error}") from None
        except OptionError:
            raise
        except ValueError:
            raise OptionError(f"{name}: {text!r} is not allowed; it must be {self.allowed}") from None


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError


def _integer(minimum: int) -> Kind:
    def convert(value: Any) -> int:
        _require(isinstance(value, int) and not isinstance(value, bool) and value >= minimum)
        return int(value)

    return Kind(f"a whole number of at least {minimum}", "NUMBER", convert, int)


def _seconds(*, positive: bool) -> Kind:
    def convert(value: Any) -> float:
        _require(isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value))
        _require(value > 0 if positive else value >= 0)
        return float(value)

    return Kind(f"a number of seconds, {'above 0' if positive else '0 or more'}", "SECONDS", convert, float)


def _switch() -> Kind:
    words = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)

    def convert(value: Any) -> bool:
        _require(isinstance(value, bool))
        return bool(value)

    def parse(text: str) -> bool:
        _require(text.lower() in words)
        return words[text.lower()]

    return Kind("true or false", "true|false", convert, parse)


def _choice(*choices: str) -> Kind:
    def convert(value: Any) -> str:
        _require(value in choices)
        return str(value)

    return Kind(f"one of {', '.join(choices)}", "|".join(choices), convert, str, textual=True)


def _function() -> Kind:
    def convert(value: Any) -> Callable[..., Any]:
        _require(callable(value))
        return value  # type: ignore[no-any-return]  # callable() has just said so

    return Kind("a callable (in text: MODULE:NAME)", "MODULE:NAME", convert, load_callable, textual=True)


def _peers() -> Kind:
    allowed = "IP addresses, networks such as 10.0.0.0/8, and the word unix, as a list (in text: with commas)"

    def convert(value: Any) -> tuple[str, ...]:
        _require(isinstance(value, (list, tuple)))
        return tuple(_peer(entry) for entry in value)

    def parse(text: str) -> list[str]:
        return [entry.strip() for entry in text.split(",")] if text.strip() else []

    return Kind(allowed, "ADDRESS,...", convert, parse, textual=True)


def _peer(entry: Any) -> str:
    if entry == "unix":
        return "unix"
    try:
        # A zone (fe80::1%eth0) would be ignored where the peer is compared.
        _require(isinstance(entry, str) and "%" not in entry)
        interface = ip_interface(entry)
    except ValueError:
        allowed = "an IP address, a network such as 10.0.0.0/8, or the word unix"
        raise _BadEntry(f"{entry!r} is not allowed; each entry must be {allowed}") from None
    if interface.ip != interface.network.network_address:
        raise _BadEntry(f"{entry!r} has bits beyond its prefix; write {interface.network} or {interface.ip}")
    return str(entry)


@dataclass(frozen=True)
class Declaration:
    """One setting as declared: its group, name, default, kind and help."""

    group: str
    name: str
    default: Any
    kind: Kind
    help: str

    def check(self, value: Any) -> Any:
        """Return the value to keep, or raise OptionError; a default of None allows None."""
        if value is None and self.default is None:
            return None
        return self.kind.check(self.name, value)


def _option(group: str, default: Any, kind: Kind, help: str) -> Any:
    return field(default=default, metadata={"group": group, "kind": kind, "help": help})


_POOL, _TIME, _SESSIONS, _LOG = "Workers and queues", "Time limits", "Database sessions", "Job log"
_CLIENTS, _PROXIES = "Clients", "Proxies"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of one balancer: frozen, keyword-only, checked at construction.

    Seconds are floats. A value that is not allowed raises `OptionError` naming the field, the value and what
    is allowed. The fields that the Go library IntraLB has keep its names and defaults.
    """

    max_concurrent_per_router: int = _option(
        _POOL, 100, _integer(1), "Slots of a worker: the requests it runs at the same time."
    )
    queue_size: int = _option(
        _POOL, 100, _integer(0), "Requests that may wait in a worker's queue; with 0, none waits."
    )
    max_workers: int = _option(_POOL, 10, _integer(1), "Workers at most.")
    min_workers: int | None = _option(
        _POOL,
        None,
        _integer(1),
        "Workers at least, and at the start. Default: one group, or max_workers if fewer.",
    )
    worker_group_size: int = _option(_POOL, 3, _integer(1), "Workers that are added or removed at a time.")
    worker_quiet_seconds: float = _option(
        _POOL,
        30.0,
        _seconds(positive=True),
        "How long fewer workers must have been enough before some are removed.",
    )
    request_timeout_seconds: float | None = _option(
        _TIME,
        None,
        _seconds(positive=True),
        "Deadline of a request: waiting, application and body together. Default: graceful_timeout_seconds.",
    )
    graceful_timeout_seconds: float = _option(
        _TIME,
        5.0,
        _seconds(positive=True),
        "How long a shutdown lets running requests go on before it ends them.",
    )
    drain_delay_seconds: float = _option(
        _TIME,
        0.0,
        _seconds(positive=False),
        "How long a shutdown goes on accepting after readiness has failed, so that a proxy notices first.",
    )
    keep_alive_seconds: float = _option(
        _TIME,
        75.0,
        _seconds(positive=True),
        "How long an idle client connection stays open. Keep it above the proxy's own idle time.",
    )
    max_connections: int = _option(
        _CLIENTS, 10_000, _integer(1), "Client connections at the same time; one more is answered 503 and closed."
    )
    max_target_bytes: int = _option(
        _CLIENTS, 8190, _integer(1), "Of a request's target (path and query); beyond it 414."
    )
    max_headers: int = _option(_CLIENTS, 100, _integer(1), "Header fields of a request; beyond it 431.")
    max_header_bytes: int = _option(
        _CLIENTS, 32 * 1024, _integer(1), "Of a request's header fields together; beyond it 431."
    )
    max_body_bytes: int = _option(_CLIENTS, 1024**3, _integer(0), "Of a request's body; beyond it 413.")
    header_timeout_seconds: float = _option(
        _CLIENTS,
        20.0,
        _seconds(positive=True),
        "For the head of a request, from its first byte or a connection's beginning; then 408.",
    )
    body_timeout_seconds: float = _option(
        _CLIENTS, 30.0, _seconds(positive=True), "Without a byte of a request's body; then 408."
    )
    write_timeout_seconds: float = _option(
        _CLIENTS,
        60.0,
        _seconds(positive=True),
        "Without a byte of an answer taken by the client; then the connection is cut.",
    )
    cancel_on_disconnect: bool = _option(_CLIENTS, False, _switch(), "End a running request whose client has left.")
    trusted_proxies: tuple[str, ...] = _option(
        _PROXIES,
        (),
        _peers(),
        "Peers whose X-Forwarded-* or Forwarded is believed; unix is every peer on a unix socket. Default: nobody.",
    )
    proxy_protocol: bool = _option(
        _PROXIES, False, _switch(), "Every connection from a trusted proxy must begin with a PROXY header."
    )
    db_init_func: Callable[[int], Any] | None = _option(
        _SESSIONS,
        None,
        _function(),
        "Opens a database session: called with the worker's id, once per slot, on first use.",
    )
    db_reset_func: Callable[[Any], object] | None = _option(
        _SESSIONS,
        None,
        _function(),
        "Makes a session ready for the next request. Default: its rollback(), if it has one.",
    )
    db_close_func: Callable[[Any], object] | None = _option(
        _SESSIONS, None, _function(), "Closes a session for good. Default: its close(), if it has one."
    )
    enable_logging: bool = _option(_LOG, False, _switch(), "Log one line for every request.")
    log_format: str = _option(_LOG, "text", _choice("text", "json"), "How those lines are written.")

    def __post_init__(self) -> None:
        """Check every field, then the fields that limit each other."""
        for declaration in declarations():
            value = declaration.check(getattr(self, declaration.name))
            object.__setattr__(self, declaration.name, value)
        if self.min_workers is not None and self.min_workers > self.max_workers:
            raise OptionError(
                f"min_workers: {self.min_workers} is not allowed; "
                f"it must be at most max_workers, which is {self.max_workers}"
            )
        if self.proxy_protocol and not self.trusted_proxies:
            raise OptionError(
                "proxy_protocol: True is not allowed alone; trusted_proxies must name who sends the header"
            )

    @property
    def first_workers(self) -> int:
        """How many workers a balancer starts with and never goes below."""
        if self.min_workers is not None:
            return self.min_workers
        return min(self.worker_group_size, self.max_workers)

    @property
    def deadline_seconds(self) -> float:
        """The deadline of a request that is given no other, in seconds from its arrival."""
        if self.request_timeout_seconds is not None:
            return self.request_timeout_seconds
        return self.graceful_timeout_seconds


def declarations() -> tuple[Declaration, ...]:
    """Every setting, in the order of declaration."""
    return tuple(
        Declaration(f.metadata["group"], f.name, f.default, f.metadata["kind"], f.metadata["help"])
        for f in fields(Options)
    )
