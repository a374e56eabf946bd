"""Log the lines of the supervisor through `logging`, as the file of `log_config` configures it.

This module runs as a separate program, because a handler of that file may wait, import the application, or fail. The
supervisor must do none of these things. The lines arrive on a socket, as one JSON object in each message.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

from ..errors import OptionError
from ..logformats import JSONFormatter, TextFormatter
from ..process.logfiles import reopen_log_files
from .logconfig import configure_by_file

__all__ = ["LogWriter"]

_MOST_BYTES: Final = 1024 * 1024
_END_SECONDS: Final = 2.0
"""Maximum seconds for which an exiting supervisor waits for this program to write the last lines."""


class LogWriter:
    """The child process that writes the lines, and the socket that passes the lines to it."""

    def __init__(self, config: str, log_format: str, environ: Mapping[str, str]) -> None:
        self.socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._program = subprocess.Popen(
                [sys.executable, "-m", __name__, config, log_format, str(other.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                process_group=0,
                env=environ,
            )

    def __repr__(self) -> str:
        return f"<LogWriter {self._program.pid}>"

    def end(self) -> None:
        """Wait until the program has written all lines; kill the program after 2 s, because a handler may hang."""
        self.socket.close()
        try:
            self._program.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._program.kill()


def _write_all(received: socket.socket, fallback: logging.Handler) -> None:
    """Log every message, until the supervisor closes its end of the socket.

    `fallback` receives each record for which a configured handler raises an exception.
    """
    logger = logging.getLogger("intralb_gevent")
    while data := received.recv(_MOST_BYTES):
        message = json.loads(data)
        if message.get("reopen"):
            reopen_log_files()
        elif logger.isEnabledFor((record := _record(message)).levelno):
            try:
                logger.handle(record)
            except Exception:
                fallback.handle(record)


def _record(message: Mapping[str, Any]) -> logging.LogRecord:
    level, traceback = getattr(logging, message["level"]), message["traceback"]
    record = logging.makeLogRecord({"name": "intralb_gevent", "levelno": level, "levelname": message["level"]})
    record.msg, record.created, record.process = message["text"], message["time"], message["pid"]
    record.msecs = message["time"] % 1 * 1000
    if traceback:
        record.exc_text = traceback
        vars(record)["intralb_fields"] = {"traceback": traceback}
    return record


def _main(config: str, log_format: str, descriptor: str) -> None:
    # Ignore signals that are sent to the whole systemd unit: this program ends when the supervisor closes the socket.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    stderr = logging.StreamHandler()
    stderr.setFormatter(JSONFormatter() if log_format == "json" else TextFormatter())
    try:
        configure_by_file(config)
    except OptionError:
        # The file cannot be used, so log to stderr. The serving processes also read the file, and report the error.
        logging.getLogger("intralb_gevent").addHandler(stderr)
    _write_all(socket.socket(fileno=int(descriptor)), stderr)


if __name__ == "__main__":
    _main(*sys.argv[1:])
