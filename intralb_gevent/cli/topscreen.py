"""Draws the screen of `intralb-gevent top` as lines: verdict, figures, lanes and oldest requests."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from time import localtime, strftime
from typing import Any, Final

from ..policy.sentences import span

__all__ = ["Screen"]

_COLOURS: Final = {"well": "32", "notice": "36", "warning": "33", "alarm": "31"}
_LEVELS: Final = {"well": "ALL WELL", "notice": "NOTICE", "warning": "WARNING", "alarm": "ALARM"}
_BAR: Final = 10
"""Width of a bar in characters."""


class Screen:
    """Draws frames of the status page's feed; `hello` is the feed's first event."""

    def __init__(self, hello: Mapping[str, Any], *, colours: bool) -> None:
        self._hello = hello
        self._colours = colours

    def __repr__(self) -> str:
        return f"<Screen of process {self._hello.get('pid')}>"

    def lines(self, frame: Mapping[str, Any], width: int, height: int) -> list[str]:
        """Return at most `height` lines of at most `width` characters, not counting the codes for colours."""
        lines = [*self._head(frame, width), "", self._figures(frame)[:width], "", *self._lanes(frame, width), ""]
        left = height - len(lines) - 1
        if left > 1:
            lines += self._requests(frame, width, left)
        return lines[:height]

    def _in(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colours else text

    def _head(self, frame: Mapping[str, Any], width: int) -> Iterator[str]:
        verdict = frame["verdict"]
        clock = strftime("%H:%M:%S", localtime(frame["time"]))
        processes = frame.get("processes", 1)
        what = f"process {frame['pid']}" if processes == 1 else f"{processes} processes"
        yield f"intralb_gevent  {what}  {frame['condition']}  {clock}"[:width]
        since = "" if verdict["kind"] == "well" else f" for {span(verdict['seconds'])}"
        yield self._in(_COLOURS[verdict["level"]], _LEVELS[verdict["level"]]) + since
        for line in textwrap.wrap(_printable(verdict["text"]), width):
            yield self._in("1", line)
        for part in (verdict["place"], verdict["unaffected"], verdict["advice"], *verdict["further"]):
            yield from textwrap.wrap(_printable(part), width)

    def _figures(self, frame: Mapping[str, Any]) -> str:
        lanes, row = frame["lanes"], dict(zip(self._hello["series"], frame["row"], strict=True))
        rejected = {name: row[name] for name in self._hello["reasons"] if row[name]}
        why = f" ({', '.join(rejected)})" if rejected else ""
        running, limit = (sum(lane[name] for lane in lanes) for name in ("running", "limit"))
        return (
            f"completed {row['completed']:g}/s  rejected {sum(rejected.values()):g}/s{why}  "
            f"slots {running} of {limit}  queued {sum(lane['queued'] for lane in lanes)}  "
            f"{'busiest ' if frame.get('processes', 1) > 1 else ''}event loop {100 * frame['loop']['busy']:.0f} %"
        )

    def _lanes(self, frame: Mapping[str, Any], width: int) -> Iterator[str]:
        yield self._in("2", f"{'lane':<18} {'slots':<21} {'queued':>6} {'oldest':>8} {'workers':>8}  state"[:width])
        for lane in frame["lanes"]:
            share = lane["running"] / max(1, lane["limit"])
            busy = f"{_bar(share)} {lane['running']} of {lane['limit']}"
            state = f"overloaded up to priority {lane['overloaded']}" if lane["overloaded"] else ""
            workers = f"{lane['workers']}/{lane['workers_max']}"
            text = f"{_printable(lane['name']) or 'general':<18.18} {busy:<21} {lane['queued']:>6} "
            yield f"{text}{span(lane['oldest']) if lane['queued'] else '-':>8} {workers:>8}  {state}"[:width]

    def _requests(self, frame: Mapping[str, Any], width: int, most: int) -> Iterator[str]:
        yield self._in("2", f"{'oldest requests':<34} {'age':>8} {'left':>8}  state and place"[:width])
        for each in frame["running"][: most - 1]:
            left = "-" if each["left"] is None else span(max(0.0, each["left"]))
            place = f"{each['state']} in {each['place']}" if each["place"] else each["state"]
            name = _printable(f"{each['method']} {each['path']}")
            yield f"{name:<34.34} {span(each['age']):>8} {left:>8}  {_printable(place)}"[:width]


def _bar(share: float) -> str:
    filled = min(_BAR, round(share * _BAR))
    return "#" * filled + "." * (_BAR - filled)


def _printable(text: str) -> str:
    """Replace control characters, which a terminal could execute as commands."""
    return "".join(each if each.isprintable() else "?" for each in text)
