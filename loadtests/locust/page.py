"""Writes the page of a run: one self-contained HTML file with the charts and figures of users and server."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal, NamedTuple

import jinja2
from markupsafe import Markup

from ..common import LoadTestError, charts
from ..common.ours import Moment, Watch
from ..common.report import as_count, as_duration
from .record import Latencies, Record

_STYLES: Final = {
    "useful": "ok",
    "too late": "ok-too",
    "gave up": "bad-too",
    "errors": "bad",
    "200": "ok",
    "refused": "shed",
    "unexpected": "bad",
    "completed": "ok",
    "shed": "shed",
    "expired": "shed-too",
    "failed": "bad",
    "timed_out": "bad-too",
    "queue_full": "shed",
    "overloaded": "one",
    "no_time": "two",
}
_OTHER_STYLES: Final = ("gray", "ok-too", "bad-too")
"""Styles for names without a fixed style, used in rotation."""
_SIZE: Final = (560, 210)


_Figure = tuple[str, str, Callable[[Moment], float | None]]
"""A line of a chart: a name, a style, and a function that reads the value from a moment."""


class Check(NamedTuple):
    """One requirement, with its result."""

    passed: bool
    sentence: str


class Tile(NamedTuple):
    """A figure with a name; `style` can highlight the figure."""

    name: str
    value: str
    style: str = ""


class Table(NamedTuple):
    """A table. `style` is the style of the HTML element; `text` is the index of the column with long text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    style: str = ""
    text: int = -1


@dataclass(frozen=True)
class Series:
    """One row of values, one per column of the chart; None leaves a gap."""

    name: str
    style: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class View:
    """A chart with a caption. Each column is a time interval, in seconds from the beginning of the run."""

    title: str
    kind: Literal["bars", "lines", "stairs"]
    """The kind of chart: "bars" are stacked, "lines" join the middles of columns, "stairs" are level in each column."""
    columns: Sequence[tuple[float, float]]
    series: Sequence[Series]
    note: str
    until: float
    """End of the time axis, in seconds."""
    write: Callable[[float], str] = as_count
    """The function that formats a value."""
    reach: float = 0.0
    """Minimum upper end of the value axis, so that two charts can share a scale."""

    @property
    def highest(self) -> float:
        """The upper end of the value axis: the largest value, or 1 if no value is positive."""
        rows = [[value or 0.0 for value in each.values] for each in self.series]
        heights = [sum(column) if self.kind == "bars" else max(column) for column in zip(*rows, strict=True)]
        return max([self.reach, *heights]) or 1.0

    def readings(self) -> list[str]:
        """Return the tooltip of each column, with its values."""
        texts = []
        for number, (begin, end) in enumerate(self.columns):
            values = [(each.name, each.values[number]) for each in self.series]
            known = [f"{name}: {self.write(value)}" for name, value in values if value is not None]
            texts.append("\n".join([f"second {begin:.0f} to {end:.0f}", *known]))
        return texts


@dataclass(frozen=True)
class Page:
    """The contents of a page."""

    title: str
    about: str
    flags: Sequence[str]
    """The server's command-line flags; empty if the run did not start the server."""
    headline: str
    style: str
    """The style of the headline's box: empty, "partly" or "failed"."""
    checks: Sequence[Check]
    users: str
    """The name of the users on the page."""
    user_tiles: Sequence[Tile]
    server_tiles: Sequence[Tile]
    pairs: Sequence[tuple[View | Table, View]]
    """Pairs of views of the same quantity: first the users' view, then the server's."""
    tables: Sequence[Table]
    footer: str
    sentences: Sequence[str] = ()
    warnings: Sequence[str] = ()
    """Reasons why the figures are unreliable."""


def quantile(latencies: Latencies, share: float = 0.99) -> str:
    """Format a quantile of latencies."""
    milliseconds = latencies.quantile(share)
    return "none" if milliseconds is None else as_duration(milliseconds)


def on_one_scale(ours: View, theirs: View) -> tuple[View, View]:
    """Return both charts with a common scale, because they show the same quantity."""
    reach = max(ours.highest, theirs.highest)
    return replace(ours, reach=reach), replace(theirs, reach=reach)


def by_name(columns: Sequence[Mapping[str, float]], styles: Mapping[str, str] = _STYLES) -> list[Series]:
    """Return a series for each name with a positive value, in the order of the styles."""
    names = {name for column in columns for name, value in column.items() if value}
    order, others = [*styles], itertools.cycle(_OTHER_STYLES)
    ordered = sorted(names, key=lambda name: (order.index(name) if name in styles else len(order), name))
    return [
        Series(name, styles.get(name) or next(others), [column.get(name, 0) for column in columns]) for name in ordered
    ]


def write(path: pathlib.Path, page: Page) -> None:
    """Write the page to a file. Raises `LoadTestError`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["draw"] = lambda view: Markup(_draw(view))
    missing = None if charts.available() else charts.LEFT_OUT
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(environment.get_template("report.html").render(page=page, missing=missing), encoding="utf-8")
    except OSError as error:
        raise LoadTestError(
            f"cannot write the report {str(path)!r}: {error.strerror}; choose another --report"
        ) from None


def _draw(view: View) -> str:
    figure, (axis,) = charts.panels(1, 1, _SIZE)
    begins, widths = [begin for begin, _ in view.columns], [end - begin for begin, end in view.columns]
    bottom = [0.0] * len(begins)
    for each in view.series:
        colour, values = charts.colour(each.style), [float("nan") if value is None else value for value in each.values]
        if view.kind == "bars":
            axis.bar(begins, values, widths, bottom, align="edge", color=colour, linewidth=0)
            bottom = [low + value for low, value in zip(bottom, values, strict=True)]
        elif view.kind == "lines":
            middles = [begin + width / 2 for begin, width in zip(begins, widths, strict=True)]
            axis.plot(middles, values, marker=".", markersize=3, color=colour)
        elif values:
            axis.step([*begins, begins[-1] + widths[-1]], [*values, values[-1]], where="post", color=colour)
    axis.set_xlim(0, view.until)
    axis.set_ylim(0, view.highest * 1.05)
    axis.xaxis.set_major_formatter("{x:g} s")
    axis.yaxis.set_major_formatter(lambda value, _: view.write(value))
    charts.add_readings(axis, view.columns)
    return charts.svg(figure, view.title, view.readings())


def until(record: Record, watch: Watch) -> float:
    """Return the end of the time axis that both sides share, in seconds from the start."""
    return max([1.0, len(record.seconds), *(moment.end - record.started for moment in watch.moments)])


class ServerViews:
    """The charts of the server's side, one per method. Times are in seconds since the start of the record."""

    def __init__(self, record: Record, watch: Watch) -> None:
        started = record.started
        self._moments = [moment for moment in watch.moments if moment.end > started]
        columns = [(max(0.0, moment.begin - started), moment.end - started) for moment in self._moments]
        self._view = partial(View, columns=columns, until=until(record, watch))

    def _lines(
        self, title: str, note: str, figures: Sequence[_Figure], write: Callable[[float], str] = as_count
    ) -> View:
        series = [Series(name, style, [read(moment) for moment in self._moments]) for name, style, read in figures]
        return self._view(title=title, kind="lines", note=note, series=series, write=write)

    def _rates(self, title: str, note: str, read: Callable[[Moment], Mapping[str, float]]) -> View:
        return self._view(title=title, kind="bars", note=note, series=by_name([read(each) for each in self._moments]))

    def jobs(self) -> View:
        """Return the chart of queued and running jobs."""
        figures: list[_Figure] = [
            ("running", "one", lambda moment: moment.facts["running"]),
            ("queued", "shed", lambda moment: moment.facts["queued"]),
        ]
        return self._lines("Running and queued", "At the end of each second.", figures)

    def outcomes(self) -> View:
        """Return the chart of outcomes."""
        return self._rates("Jobs ended per second", "By outcome.", lambda moment: moment.rates("outcomes"))

    def waits(self) -> View:
        """Return the chart of the queue waits of jobs that ran."""
        note = "Of jobs that were run; so far means since the server's start."
        p50: _Figure = ("p50 so far", "gray", lambda moment: moment.so_far("queue_wait", "p50"))
        mean, p99 = _durations("queue_wait")
        return self._lines("Queue wait", note, [mean, p50, p99], as_duration)

    def hub_lag(self) -> View:
        """Return the chart of the time for which the event loop was blocked."""
        note = "How long the event loop was busy in one go, so that all else had to wait."
        return self._lines("Hub lag", note, _durations("hub_lag"), as_duration)

    def refused(self) -> View:
        """Return the chart of rejections by reason."""
        note = "Refused without being run, by reason."
        return self._rates(
            "Shed per second", note, lambda moment: refusals(moment.rates("shed_reasons"), moment.rates("outcomes"))
        )

    def workers(self) -> View:
        """Return the chart of the number of workers."""
        series = [Series("workers", "one", [moment.workers for moment in self._moments])]
        note = "Those that accept jobs, at the end of each second."
        return self._view(title="Workers", kind="stairs", note=note, series=series)


def _durations(name: str) -> list[_Figure]:
    return [
        ("mean of the second", "one", lambda moment: moment.mean(name)),
        ("p99 so far", "two", lambda moment: moment.so_far(name, "p99")),
    ]


def refusals(shed_reasons: Mapping[str, float], outcomes: Mapping[str, float]) -> dict[str, float]:
    """Return all rejected jobs by reason. They include expired jobs, which the server does not count as shed."""
    return {**shed_reasons, **{name: count for name, count in outcomes.items() if name == "expired"}}


def compared(record: Record, watch: Watch, notes: Sequence[str], failed: str) -> list[tuple[View, View]]:
    """Return pairs of charts, one of the users and one of the server: load, results, latencies and rejections.

    `notes` are the captions of the users' charts; `failed` is the label of failed requests.
    """
    server, totals = ServerViews(record, watch), [second.total for second in record.seconds]
    view = user_view(record, watch)
    users = [Series("users", "one", [second.most_users for second in record.seconds])]
    ends = [{**each.served, "refused": each.refused.total(), failed: each.failed.total()} for each in totals]
    latencies = [
        Series("p50", "one", [each.admitted.quantile(0.5) for each in totals]),
        Series("p99", "two", [each.admitted.quantile(0.99) for each in totals]),
    ]
    first, second, third = notes
    return [
        (view("Users", "stairs", series=users, note=first), server.jobs()),
        on_one_scale(view("Requests per second", "bars", series=by_name(ends), note=second), server.outcomes()),
        on_one_scale(view("Latency", "lines", series=latencies, note=third, write=as_duration), server.waits()),
    ]


def user_view(record: Record, watch: Watch) -> partial[View]:
    """Return a function that creates charts of the users' side."""
    columns = [(float(second), second + 1.0) for second in range(len(record.seconds))]
    return partial(View, columns=columns, until=until(record, watch))


def tiles(watch: Watch) -> dict[str, Tile]:
    """Return the server's figures by name."""
    wait, lag, shed = watch.last["queue_wait"], watch.last["hub_lag"], sum(watch.shed_reasons.values())
    rejected = sum(refusals(watch.shed_reasons, watch.outcomes).values())
    few, many = watch.fewest_workers, watch.most_workers
    most = {name: max((moment.facts[name] for moment in watch.moments), default=0) for name in ("running", "queued")}
    found = [
        Tile("jobs ended", f"{watch.ended:,}"),
        Tile("completed", f"{watch.outcomes.get('completed', 0):,}"),
        Tile("shed", f"{shed:,}", "shed" if shed else ""),
        Tile("shed or expired", f"{rejected:,}", "shed" if rejected else ""),
        Tile("running at most", f"{most['running']:,}"),
        Tile("queued at most", f"{most['queued']:,}"),
        Tile("workers", f"{few}" if few == many else f"{few} to {many}"),
        Tile("queue wait p50", as_duration(wait["p50"] * 1000)),
        Tile("queue wait p99", as_duration(wait["p99"] * 1000)),
        Tile("hub lag p99", as_duration(lag["p99"] * 1000)),
        Tile("longest hub lag", as_duration(lag["longest"] * 1000)),
    ]
    return {tile.name: tile for tile in found}


def end_checks(watch: Watch, locust_code: int, any_failed: bool) -> Iterator[Check]:
    """Yield the checks of the exit codes of locust and the server. Locust's exit code is 1 if a request failed."""
    if locust_code and not any_failed:
        yield Check(False, f"Locust ended with exit code {locust_code}, though no request failed.")
    if watch.exit_code is not None:
        how = "with nothing cut" if watch.exit_code == 0 else "which means that it was not a clean shutdown"
        yield Check(watch.exit_code == 0, f"The server shut down with exit code {watch.exit_code}, {how}.")
