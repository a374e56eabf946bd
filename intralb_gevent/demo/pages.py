"""The pages of the sample application; each function fills in a template with `fill`, which escapes text."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from . import templates
from .counters import Counts
from .markup import Html, fill, join
from .rush import SECONDS, Progress
from .store import AUTHOR_LENGTH, LATEST, SEARCH_LENGTH, TEXT_LENGTH, Note

__all__ = [
    "Served",
    "error",
    "home",
    "note",
    "notes",
    "slow",
    "status",
    "stream_beginning",
    "stream_end",
    "stream_line",
]

_LINKS = {"/notes": "Notes", "/slow": "Slow", "/stream": "Stream", "/fail": "Fail", "/status": "Status"}
_CARDS = (
    ("/notes", "Notes", "Reads and writes SQLite. Each slot of the balancer keeps one session open."),
    ("/slow", "Slow", "Sleeps with time.sleep. It occupies one slot; other requests are still answered."),
    ("/stream", "Stream", "Writes one line at a time. Each line is sent as soon as it is written."),
    ("/fail", "Fail", "Raises an exception. The client gets a 500; no other request is affected."),
    ("/status", "Status", "Counts requests, and starts a rush: more requests than the server can serve."),
    ("/healthz", "Health", "Answers a health probe with one word, without using the database."),
)
_MORE_LINES = 40

ADMIN_VARIABLE = "INTRALB_DEMO_ADMIN"
"""Environment variable with the URL of the server's own status page."""


class Served(NamedTuple):
    """Facts about how a request is served, which every page shows."""

    root: str
    """Path at which the application is mounted; it is the prefix of every link."""
    worker: int | None
    seconds_left: float | None
    session_of_balancer: bool
    requests_of_thread: int
    server: str


def home(served: Served) -> Html:
    """Return the home page: what this application is, how the request was served, and links to the pages."""
    lede = (
        "This is ordinary WSGI code, written for threads: it sleeps, it blocks, it keeps a database "
        "connection per thread. Behind the balancer, the same code runs in greenlets, with short queues and "
        "enforced deadlines."
    )
    cards = join(
        fill(templates.CARD, root=served.root, path=path, shown=path, name=name, sentence=sentence)
        for path, name, sentence in _CARDS
    )
    content = join([_panel(served), fill(templates.CARDS, cards=cards)])
    return _document(served, "An old application, kept useful", lede, content)


def notes(served: Served, found: Sequence[Note], search: str, total: int) -> Html:
    """Return the list of notes, with forms to search them and to add one."""
    lede = "Each request here borrows one database session, which no other running request shares."
    content = fill(
        templates.NOTES,
        root=served.root,
        search=search,
        search_length=SEARCH_LENGTH,
        text_length=TEXT_LENGTH,
        author_length=AUTHOR_LENGTH,
        summary=_summary(len(found), search, total),
        items=join(_item(served.root, each) for each in found),
    )
    return _document(served, "Notes", lede, content, here="/notes")


def note(served: Served, one: Note) -> Html:
    """Return the page that shows one note."""
    lede = "This page reads one row by its key, which is the shortest kind of work for a slot and its session."
    content = fill(templates.NOTE_ALONE, item=_item(served.root, one), root=served.root)
    return _document(served, f"Note {one.id}", lede, content, here="/notes")


def slow(served: Served, seconds: float, others: int, longest: float) -> Html:
    """Return the page that reports this request's sleep; `longest` is the maximum that a visitor can choose."""
    figures = _figures({"asleep": f"{seconds:g} s", "answered meanwhile": _counted(others, "other request")})
    content = fill(
        templates.SLOW,
        root=served.root,
        figures=figures,
        longest=f"{longest:g}",
        again=f"{seconds:g}",
        advice=_advice(served),
    )
    return _document(served, "Slow", _slept(seconds, others), content, here="/slow")


def stream_beginning(served: Served, lines: int) -> Html:
    """Return the first part of the streamed page."""
    lede = (
        f"{_counted(lines, 'line')}, a tenth of a second apart, each sent as soon as it is written. "
        "The request occupies its slot until the last line is written, however slowly the client reads."
    )
    return join([_beginning(served, "Stream", lede, here="/stream"), fill(templates.STREAM_BEGINNING)])


def stream_line(number: int, lines: int, elapsed: float) -> Html:
    """Return one line of the streamed page."""
    return fill(templates.STREAM_LINE, number=number, lines=lines, elapsed=f"{elapsed:.2f} s")


def stream_end(served: Served) -> Html:
    """Return the last part of the streamed page."""
    sentence = "That was all."
    if served.seconds_left is not None:
        sentence = f"That was all, with {served.seconds_left:.1f} s left: each line moves the deadline of a stream."
    end = fill(templates.STREAM_END, root=served.root, sentence=sentence, more=_MORE_LINES)
    return join([end, _end(served)])


def status(served: Served, counts: Counts, rush: Progress | None) -> Html:
    """Return the page that shows this process's counts, and has a button that starts a rush."""
    lede = "The application counts its requests under a lock, as threads require; this also works in greenlets."
    figures = {
        "answered": f"{sum(counts.ended.values()):,}",
        "running": f"{sum(counts.running.values()):,}",
        "up": _duration(counts.uptime),
        "process": str(os.getpid()),
    }
    content = fill(
        templates.STATUS,
        figures=_figures(figures),
        rush=_rush(served, rush),
        pages=_page_table(counts),
        workers=_worker_table(counts.workers),
    )
    return _document(served, "Status", lede, content, here="/status")


def error(served: Served, status_line: str, message: str) -> Html:
    """Return the page for an error status."""
    code, _, reason = status_line.partition(" ")
    return _document(served, reason, f"{code}. {message}", fill(templates.ERROR, root=served.root))


def _document(served: Served, title: str, lede: str, content: Html, here: str = "") -> Html:
    return join([_beginning(served, title, lede, here), content, _end(served)])


def _beginning(served: Served, title: str, lede: str, here: str = "") -> Html:
    links = join(
        fill(templates.LINK_HERE if path == here else templates.LINK, root=served.root, path=path, name=name)
        for path, name in _LINKS.items()
    )
    return fill(templates.BEGINNING, root=served.root, title=title, lede=lede, links=links)


def _end(served: Served) -> Html:
    worker = "No balancer in front" if served.worker is None else f"Served by worker {served.worker}"
    left = "no deadline"
    if served.seconds_left is not None:
        left = f"{served.seconds_left:.3f} s left to its deadline"
    facts = (worker, left, f"process {os.getpid()}")
    return fill(templates.END, strip=join(fill(templates.FACT, fact=fact) for fact in facts))


def _panel(served: Served) -> Html:
    tiles = (_worker_tile(served), _deadline_tile(served), _thread_tile(served), _session_tile(served))
    aside = f"Served by {served.server}." if served.server else "The server does not give its name."
    return fill(templates.PANEL, tiles=join(tiles), aside=aside, root=served.root)


def _worker_tile(served: Served) -> Html:
    if served.worker is None:
        return _tile("Worker", "none", "No balancer is in front of this page.")
    return _tile("Worker", str(served.worker), "The worker that was least busy when the request arrived.")


def _deadline_tile(served: Served) -> Html:
    if served.seconds_left is None:
        return _tile("Time left", "no limit", "Nothing would end a request that hangs.")
    return _tile("Time left", f"{served.seconds_left:.3f} s", "The deadline includes the time in the queue.")


def _thread_tile(served: Served) -> Html:
    number = f"{served.requests_of_thread:,}"
    return _tile("Requests so far", number, "Counted in this thread, which is a greenlet under gevent.")


def _session_tile(served: Served) -> Html:
    if served.session_of_balancer:
        return _tile("Database session", "per slot", "Opened by the balancer; used by no other running request.")
    return _tile("Database session", "per thread", "The application opens its own connection.")


def _tile(name: str, value: str, hint: str) -> Html:
    return fill(templates.TILE, name=name, value=value, hint=hint)


def _figures(figures: dict[str, str]) -> Html:
    each = join(fill(templates.FIGURE, name=name, value=value) for name, value in figures.items())
    return fill(templates.FIGURES, figures=each)


def _summary(shown: int, search: str, total: int) -> str:
    if search and shown < LATEST:
        return f"{_counted(shown, 'note')} of {total:,} with “{search}” in text or name."
    if search:
        return f"The newest {shown} with “{search}” in text or name."
    if shown < total:
        return f"The newest {shown} of {_counted(total, 'note')}."
    return f"{_counted(total, 'note')}, the newest first."


def _item(root: str, each: Note) -> Html:
    exact = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(each.written_at))
    return fill(templates.NOTE, root=root, exact=exact, ago=_ago(each.written_at), **each._asdict())


def _ago(moment: int) -> str:
    seconds = int(time.time()) - moment
    for length, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= length:
            return f"{_counted(seconds // length, name)} ago"
    return "just now"


def _counted(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _slept(seconds: float, others: int) -> str:
    slept = f"This request slept {seconds:g} s in time.sleep."
    if others == 0:
        return f"{slept} Meanwhile no other request was answered: try it with a second tab open."
    were = "request was" if others == 1 else "requests were"
    return f"{slept} Meanwhile {others:,} other {were} answered: the sleep blocked only one slot."


def _advice(served: Served) -> str:
    if served.seconds_left is None:
        return "Start a long sleep, and open another page in a second tab: does the second page wait?"
    return (
        f"There were {served.seconds_left:.1f} s left to the deadline. If you sleep for longer, the balancer answers "
        "504 at the deadline, ends the sleep, and uses the slot for another request."
    )


def _rush(served: Served, rush: Progress | None) -> Html:
    address = os.environ.get(ADMIN_VARIABLE, "")
    live = fill(templates.LIVE, address=address) if address.startswith("http") else Html("")
    return fill(templates.RUSH, root=served.root, seconds=f"{SECONDS:g}", live=live, progress=_rush_progress(rush))


def _rush_progress(rush: Progress | None) -> str:
    if rush is None:
        return "No rush has been sent yet."
    how_far = f"A rush began {rush.seconds:.0f} s ago" if rush.running else "The last rush is over"
    rejected = f"{rush.answered:,} answered, {rush.refused:,} rejected at once or after a short wait"
    return f"{how_far}: {_counted(rush.sent, 'request')} sent, {rejected}."


def _page_table(counts: Counts) -> Html:
    most = max(counts.ended.values(), default=1)
    names = sorted({*counts.ended, *counts.running})
    return fill(templates.PAGES, rows=join(_page_row(name, counts, most) for name in names))


def _page_row(name: str, counts: Counts, most: int) -> Html:
    ended, running = counts.ended.get(name, 0), counts.running.get(name, 0)
    return fill(templates.PAGE, name=name, ended=ended, running=running, most=most)


def _worker_table(workers: dict[int, int]) -> Html:
    if not workers:
        return fill(templates.NO_WORKERS)
    most = max(workers.values())
    rows = (fill(templates.WORKER, name=each, begun=workers[each], most=most) for each in sorted(workers))
    return fill(templates.WORKERS, rows=join(rows))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
