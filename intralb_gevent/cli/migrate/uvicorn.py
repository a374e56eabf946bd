"""The flags of uvicorn, and the settings of this package that correspond to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from .equivalents import Equivalent, Translation, renamed, slots, translated, verification, without

__all__ = ["from_command"]

_SWITCHES: Final = frozenset(
    {"--reload", "--factory", "--access-log", "--no-access-log", "--use-colors", "--no-use-colors", "--proxy-headers"}
    | {"--no-proxy-headers", "--server-header", "--no-server-header", "--date-header", "--no-date-header"}
)
_NOT_NEEDED: Final = without("leave it out; this server does not need it")


def _on(name: str, value: bool = True) -> Translation:
    return lambda was, given: [Equivalent(was, name, value)]


def _peers(was: str, value: Any) -> list[Equivalent]:
    if value == "*":
        return [Equivalent(f"{was} = {value}", note="name the proxies in trusted_proxies instead")]
    return renamed("trusted_proxies")(was, value)


_KNOWN: Final[Mapping[str, Translation]] = {
    "application": renamed("application", "it must be a WSGI application; uvicorn serves ASGI applications"),
    "bind": renamed("bind", "", lambda value: [value]),
    "workers": renamed("processes", "", int),
    "reload": _on("reload"),
    "reload-dir": without("reload watches the current directory"),
    "reload-include": without("reload watches Python files, templates and settings"),
    "reload-exclude": without("reload watches Python files, templates and settings"),
    "reload-delay": _NOT_NEEDED,
    "env-file": renamed("env_file"),
    "app-dir": renamed("chdir"),
    "log-level": renamed("log_level"),
    "log-config": renamed("log_config"),
    "access-log": _on("enable_logging"),
    "no-access-log": _on("enable_logging", False),
    "ssl-certfile": renamed("certfile"),
    "ssl-keyfile": renamed("keyfile"),
    "ssl-ca-certs": renamed("ca_certs", "each client must then have a certificate"),
    "ssl-keyfile-password": without("store the key unencrypted, or pass an ssl_context to WSGIServer"),
    "ssl-cert-reqs": verification,
    "ssl-ciphers": without("a program can pass an ssl_context to WSGIServer"),
    "ssl-version": without("TLS 1.2 and 1.3 are allowed"),
    "timeout-keep-alive": renamed("keep_alive_seconds", "", float),
    "timeout-graceful-shutdown": renamed("graceful_timeout_seconds", "", float),
    "timeout-worker-healthcheck": renamed("process_timeout_seconds", "", float),
    "limit-concurrency": slots,
    "limit-max-requests": renamed("process_max_requests", "", int),
    "backlog": without("the backlog is 1024, or net.core.somaxconn if that is lower"),
    "root-path": renamed("root_path"),
    "forwarded-allow-ips": _peers,
    "proxy-headers": without("name the proxies in trusted_proxies"),
    "no-proxy-headers": _NOT_NEEDED,
    "interface": without("this server speaks WSGI only"),
    "lifespan": without("lifespan belongs to ASGI, and this server speaks WSGI"),
    "loop": without("the event loop is gevent's"),
    "http": _NOT_NEEDED,
    "ws": without("WebSocket libraries for WSGI work as they are"),
}


def from_command(words: Sequence[str]) -> list[Equivalent]:
    """Return the equivalents of the flags in a command line of uvicorn."""
    return translated(_with_address(dict(_pairs(words))), _KNOWN)


def _with_address(given: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Combine host and port into one setting, and application and factory into another setting."""
    host, port = given.pop("host", None), given.pop("port", None)
    if host is not None or port is not None:
        host = f"[{host}]" if host and ":" in host else host or "127.0.0.1"
        yield "bind", f"{host}:{port or 8000}"
    for name, form in (("uds", "unix"), ("fd", "fd")):
        if name in given:
            yield "bind", f"{form}:{given.pop(name)}"
    call = "()" if given.pop("factory", None) else ""
    if "application" in given:
        yield "application", given.pop("application") + call
    yield from given.items()


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            yield "application", word
        elif flag in _SWITCHES or equals or not waiting:
            yield flag.lstrip("-"), value or "true"
        else:
            yield flag.lstrip("-"), waiting.pop(0)
