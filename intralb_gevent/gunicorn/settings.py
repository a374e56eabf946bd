"""Reads the balancer's settings under gunicorn from `INTRALB_` variables, `intralb.toml`, and gunicorn's settings.

If a setting of gunicorn has the same meaning as a setting of this package, gunicorn's value is the default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..config.sources import Given, Settings, load
from ..errors import OptionError

__all__ = [
    "FILE",
    "LOOPBACK",
    "admin_address",
    "graceful_seconds",
    "settings_of",
    "trusts_loopback_only",
    "without_effect",
]

FILE: Final = "intralb.toml"
"""Name of the settings file in the working directory of the workers (gunicorn's `chdir`)."""

LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})
"""gunicorn's default value of `forwarded_allow_ips`."""

_FIELDS: Final = 4
"""Ratio of our limit on all header fields to gunicorn's limit on one field; with this ratio, the defaults match."""

_UNLIMITED_BYTES: Final = 1024 * 1024
"""Limit in bytes that replaces a setting of gunicorn that means "no limit"."""

_ALL: Final = ("0.0.0.0/0", "::/0")

_LAST_SECONDS: Final = 1.0
"""Seconds of gunicorn's `graceful_timeout` that are reserved for closing sessions and writing the last log lines."""

_INSTEAD: Final = {
    "bind": "--bind",
    "certfile": "--certfile",
    "keyfile": "--keyfile",
    "ca_certs": "--ca-certs",
    "chdir": "--chdir",
    "env_file": "--env",
    "user": "--user",
    "group": "--group",
    "umask": "--umask",
    "socket_mode": "--umask",
    "pid_file": "--pid",
    "log_level": "--log-level",
    "log_file": "--error-logfile",
    "log_config": "--log-config",
    "processes": "--workers",
    "reload": "--reload",
    "process_timeout_seconds": "--timeout",
    "process_max_requests": "--max-requests",
    **dict.fromkeys(("application", "agent_bind", "admin_actions", "ready_file", "ready_path"), ""),
    **dict.fromkeys(("process_max_seconds", "process_max_rss"), ""),
}
"""Settings of `serve` that have no effect under gunicorn, with gunicorn's equivalent flag, or "" if there is none."""

_SHARED_ADDRESS: Final = re.compile(r"(?P<host>\[[^\]]+\]|[^:]*):(?P<port>[1-9][0-9]*)").fullmatch


def settings_of(cfg: Any, environ: Mapping[str, str]) -> Settings:
    """Return the settings in effect; an invalid setting raises `OptionError`, which names the setting's source."""
    defaults = {name: Given(value, f"{source} of gunicorn", typed=True) for name, source, value in _defaults(cfg)}
    settings = load({}, environ, FILE if os.path.exists(FILE) else None, defaults)
    _check_delay(cfg, settings)
    admin_address(settings)
    return settings


def without_effect(settings: Settings) -> Iterator[str]:
    """Yield a warning for each given setting that only `serve` uses; the warning names gunicorn's equivalent flag."""
    for name, flag in _INSTEAD.items():
        # Do not warn about the variable PORT, because gunicorn itself reads it.
        if (source := settings.source(name)) not in ("default", "PORT"):
            what = source if source.startswith("INTRALB_") else f"{name} (from {source})"
            yield f"{what} has no effect under gunicorn" + (f"; set gunicorn's {flag}" if flag else "")


def admin_address(settings: Settings) -> tuple[str, int] | None:
    """Return host and port of `admin_bind`, or None if it is not set.

    Each worker opens its own listener at this address (SO_REUSEPORT), because gunicorn passes only its own listeners to
    the workers. Raises `OptionError` if the workers cannot share an address of this kind.
    """
    text = settings.serving.admin_bind
    if text is None:
        return None
    match = None if text.startswith(("unix:", "fd:")) else _SHARED_ADDRESS(text)
    if match is None:
        raise OptionError(
            f"admin_bind: {text!r} is not allowed under gunicorn; it must be HOST:PORT with a fixed port, which all "
            f"workers share (from {settings.source('admin_bind')})"
        )
    return match["host"].strip("[]"), int(match["port"])


def _defaults(cfg: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield the defaults that gunicorn's settings imply, as (setting, source in gunicorn, value)."""
    if cfg.keepalive:
        yield "keep_alive_seconds", "keepalive", cfg.keepalive
    yield "max_connections", "worker_connections", cfg.worker_connections
    yield "max_target_bytes", "limit_request_line", cfg.limit_request_line or _UNLIMITED_BYTES
    yield "max_headers", "limit_request_fields", cfg.limit_request_fields
    field = cfg.limit_request_field_size
    yield "max_header_bytes", "limit_request_field_size", _FIELDS * field or _UNLIMITED_BYTES
    # Disable the worker's own check, because the arbiter ends a worker whose event loop is blocked for `timeout`.
    yield "block_timeout_seconds", "timeout", 0
    if prefix := os.environ.get("SCRIPT_NAME", "").rstrip("/"):
        yield "root_path", "the variable SCRIPT_NAME", prefix
    yield from _proxies(cfg)


def _proxies(cfg: Any) -> Iterator[tuple[str, str, Any]]:
    # Before version 25 of gunicorn, `proxy_protocol` was a boolean.
    announced = cfg.proxy_protocol not in ("off", False, None)
    if not trusts_loopback_only(cfg) or announced:
        yield "trusted_proxies", "forwarded_allow_ips", _trusted(cfg, announced)
    if announced:
        yield "proxy_protocol", "proxy_protocol", True


def trusts_loopback_only(cfg: Any) -> bool:
    """Return whether `forwarded_allow_ips` names only loopback addresses, as the default does.

    If only loopback addresses are allowed, gunicorn believes a proxy's claim about the scheme, and no other claim.
    """
    return LOOPBACK.issuperset(cfg.forwarded_allow_ips)


def _trusted(cfg: Any, announced: bool) -> tuple[str, ...]:
    allowed = [*cfg.forwarded_allow_ips, *(cfg.proxy_allow_ips if announced else ())]
    networks = _ALL if "*" in allowed else tuple(dict.fromkeys(allowed))
    # gunicorn always trusts the peers of unix sockets.
    return (*networks, "unix")


def graceful_seconds(cfg: Any, settings: Settings) -> float:
    """Return the number of seconds for which requests may still run after SIGTERM and `drain_delay_seconds`.

    After the returned time, the worker can still clean up and close sessions before the arbiter kills it at
    `graceful_timeout`.
    """
    options = settings.options
    left = _usable_seconds(cfg, settings) - options.drain_delay_seconds
    return min(left, options.graceful_timeout_seconds) if "graceful_timeout_seconds" in settings.given else left


def _usable_seconds(cfg: Any, settings: Settings) -> float:
    whole = float(cfg.graceful_timeout)
    return whole - min(whole / 2, settings.options.cleanup_seconds + _LAST_SECONDS)


def _check_delay(cfg: Any, settings: Settings) -> None:
    delay, usable = settings.options.drain_delay_seconds, _usable_seconds(cfg, settings)
    if delay and delay >= usable:
        raise OptionError(
            f"drain_delay_seconds: {delay:g} is not allowed; it must be below {usable:g}, gunicorn's graceful_timeout "
            f"of {cfg.graceful_timeout} less the time for clean-up (from {settings.source('drain_delay_seconds')})"
        )
