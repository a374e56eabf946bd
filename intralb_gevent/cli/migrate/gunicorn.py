"""The settings of gunicorn, from its configuration file or a command line, and the corresponding settings here."""

from __future__ import annotations

import builtins
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ...errors import OptionError
from .equivalents import (
    ONE_AT_A_TIME,
    Equivalent,
    Translation,
    address,
    renamed,
    slots,
    translated,
    verification,
    without,
)

__all__ = ["from_command", "from_file"]

_DEFAULT_FILE: Final = "gunicorn.conf.py"
_SYNONYMS: Final = {
    "-b": "bind",
    "-w": "workers",
    "-k": "worker_class",
    "-t": "timeout",
    "-c": "config",
    "-p": "pidfile",
    "--pid": "pidfile",
    "-u": "user",
    "-g": "group",
    "-m": "umask",
    "-e": "raw_env",
    "--env": "raw_env",
    "-D": "daemon",
    "-n": "proc_name",
    "--name": "proc_name",
    "--access-logfile": "accesslog",
    "--access-logformat": "access_log_format",
    "--error-logfile": "errorlog",
    "--log-file": "errorlog",
    "--log-level": "loglevel",
    "--log-config": "logconfig",
    "--keep-alive": "keepalive",
    "--preload": "preload_app",
    "--no-sendfile": "sendfile",
    "--proxy-allow-from": "proxy_allow_ips",
}
"""Flags whose name differs from the name of the setting, each with this name."""
_SWITCHES: Final = frozenset(
    {"-D", "--daemon", "--preload", "--reload", "--no-sendfile", "--reuse-port", "--capture-output", "--initgroups"}
    | {"--proxy-protocol", "--check-config", "--print-config", "--disable-redirect-access-to-syslog", "--spew"}
    | {"--log-syslog", "--enable-stdio-inheritance"}
)
"""Flags without a value."""


def _worker_class(was: str, value: Any) -> list[Equivalent]:
    kind = value if isinstance(value, str) else getattr(value, "__name__", str(value))
    if kind == "gevent":
        note = "not needed: every request runs in a greenlet of gevent"
    elif kind == "sync":
        note = ONE_AT_A_TIME
    elif kind == "gthread":
        note = "every request runs in a greenlet of gevent; 'intralb-gevent check' reports code that blocks"
    else:
        note = "this server speaks WSGI on gevent; an ASGI application or another event loop cannot run here"
    return [Equivalent(f"{was} = {kind}", note=note)]


def _timeout(was: str, value: Any) -> list[Equivalent]:
    if float(value) == 0:
        note = "the deadline cannot be disabled; raise request_timeout_seconds for the routes that need more time"
        return [Equivalent(f"{was} = {value}", note=note)]
    note = "request_timeout_seconds limits each request; gunicorn's timeout limits the silence of a worker"
    return [Equivalent(f"{was} = {value}", "request_timeout_seconds", float(value), note)]


def _log(was: str, value: Any) -> list[Equivalent]:
    if not value:
        return []
    found = [Equivalent(f"{was} = {value}", "enable_logging", True)]
    return found if value == "-" else [*found, Equivalent(f"{was} = {value}", "log_file", str(value))]


def _peers(was: str, value: Any) -> list[Equivalent]:
    if value == "*":
        note = "name the proxies instead; any client could send X-Forwarded-For"
        return [Equivalent(f"{was} = {value}", note=note)]
    entries = value if isinstance(value, (list, tuple)) else [part.strip() for part in str(value).split(",")]
    return [Equivalent(f"{was} = {value}", "trusted_proxies", [entry for entry in entries if entry])]


def _mode(was: str, value: Any) -> list[Equivalent]:
    number = int(str(value), 0) if not isinstance(value, int) else value
    return [Equivalent(f"{was} = {value}", "umask", f"{number:03o}")]


def _statsd(was: str, value: Any) -> list[Equivalent]:
    host = str(value) if ":" in str(value) else f"{value}:8125"
    return [Equivalent(f"{was} = {value}", "push_metrics", f"statsd://{host}", "the metrics have other names")]


_HOOK: Final = without("there are no hooks; move the hook's code to the application's module")
_LEFT_OUT: Final = without("leave it out; this server does not need it")
_KNOWN: Final[Mapping[str, Translation]] = {
    "wsgi_app": renamed("application"),
    "bind": address,
    "backlog": without("the backlog is 1024, or net.core.somaxconn if that is lower"),
    "workers": renamed("processes", "one for each CPU is enough, because a process runs many requests", int),
    "worker_class": _worker_class,
    "threads": slots,
    "worker_connections": slots,
    "max_requests": lambda was, value: renamed("process_max_requests", "", int)(was, value) if int(value) else [],
    "max_requests_jitter": without("process_max_requests is lowered at random, by up to a fifth"),
    "timeout": _timeout,
    "graceful_timeout": renamed("graceful_timeout_seconds", "", float),
    "keepalive": renamed("keep_alive_seconds", "keep it above the proxy's idle timeout", float),
    "limit_request_line": lambda was, value: renamed("max_target_bytes", "", int)(was, value) if int(value) else [],
    "limit_request_fields": renamed("max_headers", "", int),
    "limit_request_field_size": renamed("max_header_bytes", "max_header_bytes limits all fields together", int),
    "reload": lambda was, value: [Equivalent(f"{was} = {value}", "reload", True)] if value else [],
    "reload_engine": _LEFT_OUT,
    "reload_extra_files": without("reload watches the files of the current directory"),
    "preload_app": without("each process imports the application itself, so that a reload loads a new version"),
    "sendfile": _LEFT_OUT,
    "reuse_port": without("the processes share one listener"),
    "chdir": renamed("chdir"),
    "daemon": without("let systemd or a container run the server in the background"),
    "raw_env": without("write the variables into a file, and name it with env_file"),
    "pidfile": renamed("pid_file"),
    "worker_tmp_dir": without("processes report through a socket, and not through a file"),
    "user": renamed("user", "", str),
    "group": renamed("group", "", str),
    "umask": _mode,
    "initgroups": without("the process always gets all groups of the user"),
    "tmp_upload_dir": without("temporary files are in the directory that TMPDIR names"),
    "secure_scheme_headers": without("trusted proxies send X-Forwarded-Proto or Forwarded"),
    "forwarded_allow_ips": _peers,
    "accesslog": _log,
    "access_log_format": without("log_format selects the format"),
    "disable_redirect_access_to_syslog": _LEFT_OUT,
    "errorlog": lambda was, value: [] if value in ("-", None) else renamed("log_file")(was, value),
    "loglevel": renamed("log_level"),
    "capture_output": without("the output of the application goes to the same log already"),
    "logger_class": without("configure logging in the application"),
    "logconfig": renamed("log_config"),
    "logconfig_dict": without("call logging.config.dictConfig in the application"),
    "logconfig_json": renamed("log_config"),
    "syslog": without("let systemd or the container forward stderr"),
    "log_syslog": without("let systemd or the container forward stderr"),
    "statsd_host": _statsd,
    "statsd_prefix": without("the names of the metrics begin with intralb"),
    "dogstatsd_tags": without("set push_metrics to dogstatsd://HOST:PORT; let the agent add the tags"),
    "proc_name": without("set the name in the unit file or the container"),
    "default_proc_name": _LEFT_OUT,
    "pythonpath": without("use chdir, or set PYTHONPATH in the environment"),
    "paste": without("name the application as MODULE:FACTORY()"),
    "proxy_protocol": lambda was, value: [Equivalent(f"{was} = {value}", "proxy_protocol", True)] if value else [],
    "proxy_allow_ips": _peers,
    "keyfile": renamed("keyfile"),
    "certfile": renamed("certfile"),
    "ca_certs": renamed("ca_certs", "each client must then have a certificate"),
    "cert_reqs": verification,
    "ssl_version": without("TLS 1.2 and 1.3 are allowed"),
    "ciphers": without("a program can pass an ssl_context to WSGIServer"),
    "do_handshake_on_connect": _LEFT_OUT,
    "suppress_ragged_eofs": _LEFT_OUT,
    "check_config": _LEFT_OUT,
    "print_config": without("use --show-config"),
    "spew": _LEFT_OUT,
    "enable_stdio_inheritance": _LEFT_OUT,
    **dict.fromkeys(
        (
            *("on_starting", "on_reload", "when_ready", "pre_fork", "post_fork", "post_worker_init", "worker_int"),
            *("worker_abort", "pre_exec", "pre_request", "post_request", "child_exit", "worker_exit"),
            *("nworkers_changed", "on_exit", "ssl_context"),
        ),
        _HOOK,
    ),
}


_DEFAULTS: Final[Mapping[str, Equivalent]] = {
    "graceful_timeout": Equivalent(
        "graceful_timeout, by default 30",
        note="graceful_timeout_seconds is 5 by default; set it to 30 to keep gunicorn's value",
    ),
    "forwarded_allow_ips": Equivalent(
        "forwarded_allow_ips, by default 127.0.0.1",
        note='no proxy is trusted by default; for one on this machine, set trusted_proxies = ["127.0.0.1", "unix"]',
    ),
}


def from_file(path: str) -> list[Equivalent]:
    """Execute a gunicorn.conf.py, as gunicorn does, and return the equivalents of its settings."""
    return _translated(_in_file(path).items())


def from_command(words: Sequence[str]) -> list[Equivalent]:
    """Return the equivalents of a command line's flags, and of the settings in the file that gunicorn would read."""
    given = list(_in_command([*shlex.split(os.environ.get("GUNICORN_CMD_ARGS", "")), *words]))
    named = [str(value) for name, value in given if name == "config"]
    file = (named or [_DEFAULT_FILE])[-1].removeprefix("file:")
    in_file = _in_file(file) if named or os.path.exists(file) else {}
    flags = [(name, value) for name, value in given if name != "config"]
    # A flag overrides the value in the file; several --bind flags together replace the file's addresses.
    kept = [(name, value) for name, value in in_file.items() if name not in dict(flags)]
    return _translated([*kept, *flags])


def _translated(settings: Iterable[tuple[str, Any]]) -> list[Equivalent]:
    """Return the equivalents, and notes on gunicorn's defaults that differ from this server's defaults."""
    given = list(settings)
    names = {name for name, _ in given}
    if names.isdisjoint({"worker_class", "threads"}):
        given.append(("worker_class", "sync"))
    return [*translated(given, _KNOWN), *(note for name, note in _DEFAULTS.items() if name not in names)]


def _in_file(path: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__builtins__": builtins, "__name__": "__config__", "__file__": path}
    try:
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec"), namespace)
    except OSError as error:
        raise OptionError(f"migrate: {path!r} cannot be read ({error.strerror})") from None
    except Exception as error:
        raise OptionError(f"migrate: executing {path!r} failed: {type(error).__name__}: {error}") from error
    found = {name: value for name, value in namespace.items() if not name.startswith("_")}
    # Ignore other names, as gunicorn does: the file uses them for its own variables and imported modules.
    return {name: value for name, value in found.items() if name in _KNOWN}


def _in_command(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        flag, equals, value = word.partition("=") if word.startswith("--") else (word[:2], word[2:], word[2:])
        if not word.startswith("-"):
            yield "wsgi_app", word if ":" in word else f"{word}:application"
            continue
        name = _SYNONYMS.get(flag, flag.lstrip("-").replace("-", "_"))
        if flag in _SWITCHES:
            yield name, True
        elif equals:
            yield name, value
        elif waiting:
            yield name, waiting.pop(0)
