"""The settings of uWSGI, from its ini file or a command line, and the corresponding settings here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ...errors import OptionError
from .equivalents import ONE_AT_A_TIME, Equivalent, Translation, address, is_true, renamed, slots, translated, without

__all__ = ["from_command", "from_file"]

_SHORT: Final = {"-s": "socket", "-p": "processes", "-M": "master", "-w": "module", "-H": "home", "-d": "daemonize"}
_SYNONYMS: Final = {
    "workers": "processes",
    "wsgi": "module",
    "venv": "virtualenv",
    "home": "virtualenv",
    "worker-reload-mercy": "reload-mercy",
    "http-socket": "http",
    "async": "gevent",
    "file": "wsgi-file",
    "pp": "pythonpath",
    "python-path": "pythonpath",
    "chdir2": "chdir",
    "logto2": "logto",
}
_HOLDER: Final = re.compile(r"%\((?P<name>[\w-]+)\)|\$\((?P<variable>\w+)\)")
_NOT_NEEDED: Final = without("not needed here")


def _on(name: str) -> Translation:
    return lambda was, value: [Equivalent(f"{was} = {value}", name, True)] if is_true(value) else []


def _socket(was: str, value: Any) -> list[Equivalent]:
    note = "this server speaks HTTP: in nginx, use proxy_pass instead of uwsgi_pass"
    return [Equivalent(each.was, each.name, each.value, note) for each in address(was, value)]


def _rss(was: str, value: Any) -> list[Equivalent]:
    return [Equivalent(f"{was} = {value}", "process_max_rss", f"{int(value)}M")]


def _processes(was: str, value: Any) -> list[Equivalent]:
    text = "auto" if value in ("%k", "auto") else int(value)
    note = "one for each CPU is enough, because a process runs many requests"
    return [Equivalent(f"{was} = {value}", "processes", text, note)]


def _harakiri(was: str, value: Any) -> list[Equivalent]:
    note = "this server aborts only the request, and the process continues to run"
    return [Equivalent(f"{was} = {value}", "request_timeout_seconds", float(value), note)]


def _mode(was: str, value: Any) -> list[Equivalent]:
    return [] if is_true(value) and len(str(value)) < 3 else renamed("socket_mode", "", str)(was, value)


def _quiet(was: str, value: Any) -> list[Equivalent]:
    return [Equivalent(f"{was} = {value}", "enable_logging", False)] if is_true(value) else []


_KNOWN: Final[Mapping[str, Translation]] = {
    "http": address,
    "socket": _socket,
    "uwsgi-socket": _socket,
    "https": without("set bind, certfile and keyfile"),
    "application": renamed("application"),
    "processes": _processes,
    "threads": slots,
    "gevent": slots,
    "gevent-monkey-patch": without("not needed: the process is patched before anything else is imported"),
    "harakiri": _harakiri,
    "http-timeout": without("body_timeout_seconds and write_timeout_seconds limit silent clients"),
    "socket-timeout": without("body_timeout_seconds and write_timeout_seconds limit silent clients"),
    "max-requests": renamed("process_max_requests", "", int),
    "max-requests-delta": without("process_max_requests is lowered at random, by up to a fifth"),
    "max-worker-lifetime": renamed("process_max_seconds", "", float),
    "reload-on-rss": _rss,
    "evil-reload-on-rss": _rss,
    "reload-mercy": renamed("graceful_timeout_seconds", "", float),
    "chdir": renamed("chdir"),
    "uid": renamed("user", "", str),
    "gid": renamed("group", "", str),
    "umask": renamed("umask", "", str),
    "pidfile": renamed("pid_file"),
    "pidfile2": renamed("pid_file"),
    "chmod-socket": _mode,
    "chown-socket": without("user and group also set the owner of a unix socket"),
    "env": without("write the variables into a file, and name it with env_file"),
    "listen": without("the backlog is 1024, or net.core.somaxconn if that is lower"),
    "limit-post": renamed("max_body_bytes", "", int),
    "buffer-size": renamed("max_header_bytes", "", int),
    "py-autoreload": _on("reload"),
    "touch-reload": without("send SIGHUP to reload"),
    "stats": lambda was, value: [Equivalent(f"{was} = {value}", "admin_bind", str(value), "it serves JSON over HTTP")],
    "stats-http": _NOT_NEEDED,
    "logto": renamed("log_file"),
    "daemonize": without("let systemd or a container run the server in the background"),
    "disable-logging": _quiet,
    "log-format": without("log_format selects the format"),
    "static-map": without("let nginx serve static files, or use WhiteNoise"),
    "check-static": without("let nginx serve static files, or use WhiteNoise"),
    "mount": without("LoadBalancer({path: application}) mounts several applications in a program"),
    "manage-script-name": without("root_path sets the prefix under which a proxy serves the application"),
    "virtualenv": without("start with the intralb-gevent of that environment"),
    "pythonpath": without("use chdir, or set PYTHONPATH in the environment"),
    "cheaper": without("the pool of workers inside a process grows and shrinks automatically"),
    "cheaper-initial": without("the pool of workers inside a process grows and shrinks automatically"),
    "cheaper-step": without("the pool of workers inside a process grows and shrinks automatically"),
    "cron": without("use cron or a systemd timer"),
    "spooler": without("use a task queue"),
    "mule": without("run the program as a separate service"),
    "attach-daemon": without("run the program as a separate service"),
    "emperor": without("use one systemd unit for each application"),
    "plugins": _NOT_NEEDED,
    "plugin": _NOT_NEEDED,
    "procname-prefix": without("set the name in the unit file or the container"),
    "auto-procname": _NOT_NEEDED,
    **dict.fromkeys(
        (
            *("master", "die-on-term", "vacuum", "enable-threads", "lazy", "lazy-apps", "single-interpreter"),
            *("need-app", "thunder-lock", "strict", "ignore-sigpipe", "ignore-write-errors", "offload-threads"),
            *("disable-write-exception", "post-buffering", "http-keepalive", "http-auto-chunked", "memory-report"),
            *("harakiri-verbose", "no-orphans", "py-call-osafterfork", "honour-stdin", "wsgi-env-behaviour"),
        ),
        _NOT_NEEDED,
    ),
}


def from_file(path: str) -> list[Equivalent]:
    """Return the equivalents of the settings in the [uwsgi] section of an ini file."""
    return _translated(_in_file(path))


def from_command(words: Sequence[str]) -> list[Equivalent]:
    """Return the equivalents of the settings in a command line, and in the ini files that the command line names."""
    given = list(_in_command(words))
    files = [str(value) for name, value in given if name == "ini"]
    in_files = [pair for path in files for pair in _in_file(path)]
    return _translated([*in_files, *((name, value) for name, value in given if name != "ini")])


def _translated(settings: Iterable[tuple[str, str]]) -> list[Equivalent]:
    pairs = [(_SYNONYMS.get(name, name), value) for name, value in settings]
    found = translated(_with_application(pairs), _KNOWN)
    if {"threads", "gevent"}.isdisjoint(dict(pairs)):
        found.append(Equivalent("neither threads nor gevent", note=ONE_AT_A_TIME))
    return found


def _with_application(pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Combine the settings that together name the application into one setting."""
    named = dict(pairs)
    module = named.get("module", "") or _module_of(named.get("wsgi-file", ""))
    if module:
        yield "application", module if ":" in module else f"{module}:{named.get('callable', 'application')}"
    yield from (pair for pair in pairs if pair[0] not in ("module", "wsgi-file", "callable"))


def _module_of(file: str) -> str:
    return file.removesuffix(".py").strip("/").replace("/", ".")


def _in_file(path: str) -> list[tuple[str, str]]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise OptionError(f"migrate: {path!r} cannot be read ({why})") from None
    return list(_resolved(_section(lines)))


def _section(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    section = ""
    for line in map(str.strip, lines):
        if line.startswith("["):
            section = line.strip("[]")
        elif section == "uwsgi" and "=" in line and line[0] not in "#;":
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()


def _resolved(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Replace placeholders such as %(base), as uWSGI does; unknown placeholders are not changed."""
    known: dict[str, str] = {}
    pairs = list(pairs)
    used = {match["name"] for _, value in pairs for match in _HOLDER.finditer(value)}
    for name, value in pairs:
        full = _HOLDER.sub(lambda match: known.get(match["name"] or "", match[0]), value)
        known[name] = full
        is_only_used = name in used and _SYNONYMS.get(name, name) not in _KNOWN
        if name not in ("set", "set-ph", "set-placeholder") and not is_only_used:
            yield name, full


def _in_command(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("-"):
            yield ("ini", word) if word.endswith(".ini") else ("wsgi-file", word)
            continue
        flag, _, value = word.partition("=")
        name = _SHORT.get(flag, flag.lstrip("-"))
        if not value and waiting and not waiting[0].startswith("-"):
            value = waiting.pop(0)
        yield name, value or "true"
