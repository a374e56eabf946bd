"""Hints for flags that exist in gunicorn, uWSGI or uvicorn, but not in this program."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

__all__ = ["hint_for"]

_RENAMED: Final = {
    "--workers": "--processes",
    "--timeout": "--request-timeout-seconds",
    "-t": "--request-timeout-seconds",
    "--harakiri": "--request-timeout-seconds",
    "--graceful-timeout": "--graceful-timeout-seconds",
    "--timeout-graceful-shutdown": "--graceful-timeout-seconds",
    "--reload-mercy": "--graceful-timeout-seconds",
    "--keep-alive": "--keep-alive-seconds",
    "--timeout-keep-alive": "--keep-alive-seconds",
    "--max-requests": "--process-max-requests",
    "--limit-max-requests": "--process-max-requests",
    "--max-worker-lifetime": "--process-max-seconds",
    "--reload-on-rss": "--process-max-rss",
    "--forwarded-allow-ips": "--trusted-proxies",
    "--proxy-allow-from": "--trusted-proxies",
    "--pid": "--pid-file",
    "-p": "--pid-file",
    "--pidfile": "--pid-file",
    "--chmod-socket": "--socket-mode",
    "--uid": "--user",
    "-u": "--user",
    "--gid": "--group",
    "-g": "--group",
    "-m": "--umask",
    "--app-dir": "--chdir",
    "--http": "--bind",
    "--http-socket": "--bind",
    "--stats": "--admin-bind",
    "--ssl-certfile": "--certfile",
    "--ssl-keyfile": "--keyfile",
    "--ssl-ca-certs": "--ca-certs",
    "--ca-cert": "--ca-certs",
    "--limit-request-line": "--max-target-bytes",
    "--limit-request-fields": "--max-headers",
    "--limit-request-field_size": "--max-header-bytes",
    "--limit-post": "--max-body-bytes",
    "--py-autoreload": "--reload",
    "--access-logfile": "--enable-logging",
    "--access-log": "--enable-logging",
}
"""Flags of other servers, each with the flag of this program that has the same meaning."""

_SLOTS: Final = (
    "requests run in slots: --max-workers times --max-concurrent-per-router, 10 x 100 by default; "
    "for {value}, --max-workers 1 --max-concurrent-per-router {value}"
)
_OTHERWISE: Final = {
    "--worker-connections": _SLOTS,
    "--threads": _SLOTS,
    "--gevent": _SLOTS,
    "--limit-concurrency": _SLOTS,
    "--port": "write --bind :{value}, or --bind {value} for 127.0.0.1 only",
    "--host": "write --bind {value}:8000",
    "--uds": "write --bind unix:{value}",
    "--fd": "write --bind fd:{value}",
    "-k": "leave it out: every request runs in a greenlet of gevent",
    "--worker-class": "leave it out: every request runs in a greenlet of gevent",
    "--gevent-monkey-patch": "leave it out: the process is patched before anything else is imported",
    "--preload": "leave it out: each process imports the application itself",
    "-D": "leave it out, and let systemd or a container run the server in the background",
    "--daemon": "leave it out, and let systemd or a container run the server in the background",
    "--daemonize": "leave it out, and let systemd or a container run the server in the background",
    "--backlog": "leave it out: the backlog is 1024, or net.core.somaxconn if that is lower",
    "--listen": "leave it out: the backlog is 1024, or net.core.somaxconn if that is lower",
    "--worker-tmp-dir": "leave it out: processes report through a socket, and not through a file",
    "--max-requests-jitter": "leave it out: --process-max-requests is lowered at random, by up to a fifth",
    "--env": "use --env-file, or set the variable in the shell",
    "-e": "use --env-file, or set the variable in the shell",
    "--pythonpath": "use --chdir, or set PYTHONPATH in the environment",
    "--factory": "write the application as MODULE:FACTORY()",
    "--wsgi-file": "name the module instead, as in 'serve shop.wsgi:application'",
    "--module": "write the application as 'serve MODULE:APP'",
    "--callable": "write the application as 'serve MODULE:APP'",
    "--master": "leave it out: --processes starts a supervisor",
    "--proxy-headers": "name the proxies with --trusted-proxies",
    "--socket": "this server speaks HTTP; use --bind, and in nginx, proxy_pass instead of uwsgi_pass",
    "--loop": "leave it out: the event loop is gevent's",
    "--lifespan": "leave it out: lifespan belongs to ASGI, and this server speaks WSGI",
    "--interface": "leave it out: this server speaks WSGI only",
    "--ws": "leave it out: WebSocket libraries for WSGI work as they are",
}
"""Flags of other servers that no single flag of this program replaces, each with a hint.

`{value}` is replaced by the value that the user gave to the flag.
"""


def hint_for(argument: str, after: Sequence[str], known: Sequence[str]) -> str:
    """Return a hint for an unknown flag, to append to an error message; '' if no known flag is similar.

    `after` lists the arguments that follow the flag, and `known` lists the flags of this program.
    """
    flag, _, value = argument.partition("=")
    if not value and after and not after[0].startswith("-"):
        value = after[0]
    if flag == "-p" and value.isdecimal():
        # In gunicorn, -p names a pid file; in other programs, such as Flask, -p is a port.
        flag = "--port"
    elif flag not in (*_RENAMED, *_OTHERWISE):
        close = difflib.get_close_matches(flag, [*known, *_RENAMED, *_OTHERWISE], n=1)
        if not close or close[0] in known:
            return f"; did you mean {close[0]}?" if close else ""
        flag = close[0]
    renamed = _RENAMED.get(flag, "")
    if renamed in known:
        takes_value = renamed not in ("--reload", "--enable-logging")
        return f"; use {renamed} {value}".rstrip() if takes_value else f"; use {renamed}"
    return f"; {_OTHERWISE[flag].format(value=value or 'N')}" if flag in _OTHERWISE else ""
