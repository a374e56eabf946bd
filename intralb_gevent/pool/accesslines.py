"""Formats the log line of a request as text, as JSON, or in the Combined Log Format of Apache and nginx."""

from __future__ import annotations

import re
from functools import partial
from time import localtime, strftime
from typing import Any, Final
from urllib.parse import quote

from ..hub.loghandlers import JOBS
from ..process.logline import LINES, LogText, json_line
from .job import shown
from .logfields import as_utf8

__all__ = ["combined_text", "json_text", "plain_text"]

_MONTHS: Final = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""English names of the months; the names from `strftime("%b")` would depend on the locale."""

_UNSAFE: Final = re.compile('[\x00-\x1f"\\\\\x7f-\x9f\u2028\u2029\ud800-\udfff]')
"""Matches characters that are escaped in a quoted value, because they could end the value or the line."""

_UNQUOTED: Final = "/:@!$&'()*+,;=~-._"
"""Characters of a path that need no percent-encoding."""


def plain_text(facts: dict[str, Any]) -> LogText:
    """Return the line as text; after the outcome, most values are preceded by their names, as in `worker=1`."""
    worker = "-" if facts["worker"] is None else facts["worker"]
    client = f" client={shown(facts['client'])}" if facts["client"] else ""
    query = f"?{shown(facts['query'])}" if facts["query"] else ""
    line = (
        f"{facts['method'] or '-'} {shown(facts['path']) or '-'}{query} {facts['status'] or '-'} {facts['outcome']}"
        f"{_reason(facts['reason'])} worker={worker} wait={_ms(facts['queue_wait'])}ms run={_ms(facts['run_time'])}ms"
        f"{client} {facts['protocol'] or '-'} bytes={facts['bytes']} id={_id(facts)} "
        f"referer={_quoted(facts['referer'])} agent={_quoted(facts['agent'])}"
    )
    traceparent = facts["identity"].get("traceparent")
    return LogText(f"{line} traceparent={traceparent}" if traceparent else line, partial(_fields, facts))


def json_text(facts: dict[str, Any]) -> LogText:
    """Return the line as a JSON object."""
    fields = _fields(facts)
    message = fields["message"]
    return LogText(json_line(facts["time"], "INFO", JOBS.name, message, fields, LINES.ascii), fields, "json")


def combined_text(facts: dict[str, Any]) -> LogText:
    """Return the line in the Combined Log Format.

    The format's own fields are followed by the queue wait and the run time in seconds, the worker, the outcome, the
    reason and the request id.
    """
    request = f"{facts['method'] or '-'} {_target(facts)} {facts['protocol'] or 'HTTP/1.1'}"
    line = (
        f"{shown(facts['client']) or '-'} - - [{_combined_time(facts['time'])}] {_quoted(request)} "
        f"{facts['status'] or '-'} {facts['bytes'] or '-'} {_quoted(facts['referer'])} {_quoted(facts['agent'])} "
        f"{facts['queue_wait']:.6f} {facts['run_time']:.6f} {'-' if facts['worker'] is None else facts['worker']} "
        f"{facts['outcome']} {_quoted(facts['reason']) if facts['reason'] else '-'} {_id(facts)}"
    )
    return LogText(line, partial(_fields, facts), "combined")


def _fields(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a JSON line."""
    path = as_utf8(facts["path"])
    return {
        "message": f"{facts['method'] or '-'} {path or '-'} {facts['status'] or '-'}",
        "client": facts["client"],
        "method": facts["method"],
        "path": path,
        "query": as_utf8(facts["query"]),
        "protocol": facts["protocol"],
        "status": int(facts["status"]) if facts["status"].isdecimal() else None,
        "bytes": facts["bytes"],
        "referer": as_utf8(facts["referer"]),
        "agent": as_utf8(facts["agent"]),
        "queue_wait_ms": _ms(facts["queue_wait"]),
        "run_time_ms": _ms(facts["run_time"]),
        "worker": facts["worker"],
        "outcome": facts["outcome"],
        "reason": facts["reason"] or None,
        **facts["identity"],
    }


def _reason(reason: str | None) -> str:
    if not reason:
        return ""
    return f" reason={_quoted(reason) if ' ' in reason else reason}"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _id(facts: dict[str, Any]) -> str:
    return shown(facts["identity"].get("request_id", "")) or "-"


def _quoted(text: Any) -> str:
    """Return a value in quotes, with the quotes, backslashes and control characters in the value escaped as in nginx.

    An empty value is shown as a hyphen.
    """
    if not text:
        return '"-"'
    return f'"{_UNSAFE.sub(_escape, as_utf8(text))}"'


def _escape(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"\\x{number:02x}" if number <= 0xFF else f"\\u{number:04x}"


def _target(facts: dict[str, Any]) -> str:
    """Return the request target as the client has sent it.

    If an outer server has passed only the decoded path and the query, return a target with the path encoded again.
    """
    if facts["target"]:
        return str(facts["target"])
    path = quote(str(facts["path"]).encode("latin-1", "replace"), safe=_UNQUOTED)
    return f"{path or '-'}?{facts['query']}" if facts["query"] else path or "-"


def _combined_time(now: float) -> str:
    local = localtime(now)
    return f"{local.tm_mday:02}/{_MONTHS[local.tm_mon]}/{strftime('%Y:%H:%M:%S %z', local)}"
