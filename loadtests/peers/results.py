"""The cases, their results and goals, and the Markdown tables and the chart that show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from ..common import charts
from ..common.report import about_lines, counted, table
from ..common.servers import LIMIT, OURS, SERVERS, titled

_APPLICATIONS: Final = "loadtests.peers.applications"
_FLASK: Final = "loadtests.peers.flask_application:application"
FILE_BYTES: Final = 10 * 1024 * 1024
_POST_BYTES: Final = 100 * 1024
IDLE: Final = "idle"
"""Name of the case that measures memory instead of requests per second."""


@dataclass(frozen=True)
class Case:
    """One repeated request, with its correct response."""

    name: str
    title: str
    application: str
    """The application, as MODULE:NAME."""
    answer: bytes = b"Hello World"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    package: str = ""
    """The package that the case needs in addition to a server."""

    @property
    def method(self) -> str:
        """The method of the request."""
        return "POST" if self.body else "GET"


CASES: Final = {
    case.name: case
    for case in (
        Case("hello", "Hello, keep-alive", f"{_APPLICATIONS}:hello"),
        Case("close", "Hello, Connection: close", f"{_APPLICATIONS}:hello", headers={"Connection": "close"}),
        Case("flask", "Flask hello", _FLASK, package="flask"),
        Case("large", "64 KB response", f"{_APPLICATIONS}:large", b"x" * 64 * 1024),
        Case("larger", "1 MB response", f"{_APPLICATIONS}:larger", b"x" * 1024 * 1024),
        Case("post", "100 KB POST", f"{_APPLICATIONS}:length", b"%d" % _POST_BYTES, body=b"x" * _POST_BYTES),
        Case("file", "10 MB by wsgi.file_wrapper", f"{_APPLICATIONS}:file", bytes(FILE_BYTES)),
        Case(IDLE, "Idle keep-alive connections", f"{_APPLICATIONS}:hello"),
    )
}
"""The cases by name, in the order of measurement."""


@dataclass(frozen=True)
class Measurement:
    """The measurement of one server in one case and one round."""

    value: float
    """Correct responses per second; for idle connections, bytes per connection."""
    memory: int
    """Peak resident memory of the server's processes, in bytes; for idle connections, while all are open."""
    errors: Mapping[str, int] = field(default_factory=dict)
    p50: float = 0.0
    """Median latency in milliseconds, like the other percentiles."""
    p99: float = 0.0
    server_busy: float = 0.0
    """Share of its core, from 0 to 1, that the server used."""
    generator_busy: float = 0.0

    @property
    def cpu_microseconds(self) -> float:
        """The server's processor time per correct response, in microseconds."""
        return self.server_busy / self.value * 1e6 if self.value else 0.0


@dataclass
class Entry:
    """The measurements of one server in one case, over all rounds."""

    measurements: list[Measurement] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Reasons for missing measurements, one per failed round."""

    def median(self, name: str) -> float:
        """Return the median of one figure over the rounds."""
        return float(median(getattr(measurement, name) for measurement in self.measurements))

    @property
    def value(self) -> float | None:
        """The median of `Measurement.value` over the rounds, or None without measurements."""
        return self.median("value") if self.measurements else None

    @property
    def errors(self) -> Counter[str]:
        """The errors of all rounds, summed by kind."""
        return sum((Counter(measurement.errors) for measurement in self.measurements), Counter())

    @property
    def clean(self) -> bool:
        """True if every round has a measurement without errors."""
        return not self.errors and not self.failures


@dataclass
class Results:
    """All results, and the conditions of the measurement."""

    about: dict[str, str] = field(default_factory=dict)
    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    """Entries by case name, then by server name."""

    def entry(self, case: str, server: str) -> Entry:
        """Return the entry of a server in a case; create it if it is missing."""
        return self.entries.setdefault(case, {}).setdefault(server, Entry())

    def value(self, case: str, server: str) -> float | None:
        """Return a server's median figure in a case, or None without measurements."""
        entry = self.entries.get(case, {}).get(server)
        return entry.value if entry else None

    def advantage(self, case: str, server: str) -> float | None:
        """Return the factor by which our server is better than another, or None unless both were measured."""
        ours, theirs = self.value(case, OURS), self.value(case, server)
        if not ours or not theirs:
            return None
        return theirs / ours if case == IDLE else ours / theirs

    def best_peer(self, case: str) -> str | None:
        """Return the name of the best server that is neither ours nor the limit."""
        values = {server: self.value(case, server) for server in self.entries.get(case, {})}
        peers = {name: value for name, value in values.items() if value is not None and name not in (OURS, LIMIT)}
        return (min if case == IDLE else max)(peers, key=lambda name: peers[name], default=None)

    @property
    def failed(self) -> bool:
        """True if any measurement failed."""
        return any(entry.failures for servers in self.entries.values() for entry in servers.values())


def from_json(stored: Mapping[str, Any]) -> Results:
    """Convert the parsed JSON of `as_json` back to results."""
    results = Results(stored["about"])
    for case, servers in stored["entries"].items():
        for server, entry in servers.items():
            known = results.entry(CASES[case].name, SERVERS[server].name)
            known.measurements = [Measurement(**measurement) for measurement in entry["measurements"]]
            known.failures = list(entry["failures"])
    return results


GOALS: Final = (
    ("hello", "gunicorn", 5.0),
    ("hello", "pywsgi-nodelay", 3.5),
    ("hello", "granian", 1.0),
    ("hello", LIMIT, 0.5),
    ("close", "gunicorn", 3.0),
    ("flask", "granian", 0.95),
    ("large", None, 1.2),
    ("larger", None, 1.2),
    ("post", "granian", 0.9),
    ("file", None, 1.2),
)
"""Goals, each with a case, a peer (None means the best peer), and the required advantage of our server."""
IDLE_BYTES: Final = 4096
"""Maximum memory of an idle connection, in bytes."""


if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MEGABYTE: Final = 1024 * 1024
_Write = Callable[[float], str]


def as_markdown(results: Results) -> str:
    """Format all results: a table for each case, then the goals."""
    cases = [case for name, case in CASES.items() if name in results.entries]
    parts = [about_lines(results.about), *(_case(results, case) for case in cases)]
    goals = list(_goals(results))
    if goals:
        parts.append("### Goals\n\n" + table(("case", "beside", "wanted", "measured", "reached"), goals))
    return "\n\n".join(parts) + "\n"


def rate(value: float) -> str:
    """Format a number of requests per second."""
    return f"{value:,.0f}"


def kilobytes(value: float) -> str:
    """Format a number of bytes."""
    return f"{value / 1024:.1f}"


def _case(results: Results, case: Case) -> str:
    entries = {name: results.entries[case.name][name] for name in SERVERS if name in results.entries[case.name]}
    idle = case.name == IDLE
    figures, unit, write = (_IDLE_FIGURES, "KB each", kilobytes) if idle else (_FIGURES, "requests/s", rate)
    header = ["server", unit, "lowest - highest", "ours against it", *figures, "errors"]
    rows = []
    for name, entry in entries.items():
        errors = counted({**entry.errors, **({"not measured": len(entry.failures)} if entry.failures else {})})
        times = results.advantage(case.name, name)
        against = "" if times is None or name == OURS else _times(times)
        cells = _cells(entry, write, against, figures) if entry.measurements else [""] * (3 + len(figures))
        rows.append([titled(SERVERS[name]), *cells, errors])
    failures = [
        f"- {SERVERS[name].title} could not be measured: {failure}"
        for name, entry in entries.items()
        for failure in dict.fromkeys(entry.failures)
    ]
    parts = [f"### {case.title}", table(header, rows)]
    return "\n\n".join([*parts, "\n".join(failures)] if failures else parts)


def _cells(entry: Entry, write: _Write, against: str, figures: Mapping[str, Callable[[Entry], str]]) -> list[str]:
    values = [measurement.value for measurement in entry.measurements]
    spread = f"{write(min(values))} - {write(max(values))}"
    return [write(entry.median("value")), spread, against, *(figure(entry) for figure in figures.values())]


def _times(value: float) -> str:
    return f"{value:.2f} x"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _memory(entry: Entry) -> str:
    return f"{entry.median('memory') / _MEGABYTE:.0f}"


_IDLE_FIGURES: Final[Mapping[str, Callable[[Entry], str]]] = {"RSS MB": _memory}
_FIGURES: Final[Mapping[str, Callable[[Entry], str]]] = {
    "p50 ms": lambda entry: _short(entry.median("p50")),
    "p99 ms": lambda entry: _short(entry.median("p99")),
    "peak RSS MB": _memory,
    "CPU µs each": lambda entry: _short(entry.median("cpu_microseconds")),
    "busy: server / wrk": lambda entry: f"{entry.median('server_busy'):.0%} / {entry.median('generator_busy'):.0%}",
}
"""The columns after the case's main figure: each header, with the function that formats its cells."""


def _goals(results: Results) -> Iterator[list[str]]:
    for case, named, wanted in GOALS:
        peer = named or results.best_peer(case)
        times = results.advantage(case, peer) if peer else None
        if peer and times is not None:
            title = SERVERS[peer].title + ("" if named else ", the best")
            yield [CASES[case].title, title, _times(wanted), _times(times), _yes(times >= wanted)]
    each_idle = results.value(IDLE, OURS)
    if each_idle is not None:
        wanted_idle = f"at most {kilobytes(IDLE_BYTES)} KB"
        yield [CASES[IDLE].title, "", wanted_idle, f"{kilobytes(each_idle)} KB", _yes(each_idle <= IDLE_BYTES)]


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"


# Drawing of the chart.


def draw(results: Results) -> str:
    """Draw the chart as SVG, with a panel for each case and a bar for each server."""
    cases = [case for case in CASES if case in results.entries]
    title, about = "intralb_gevent beside other servers", "One process on one core; medians."
    if any(LIMIT in results.entries[case] for case in cases):
        about += " Outlined: the limit, gevent's loop with a fixed answer."
    if not all(entry.clean for case in cases for entry in results.entries[case].values()):
        about += " * with errors: see the tables."
    most = max((len(results.entries[case]) for case in cases), default=1)
    rows = -(-len(cases) // 2)
    figure, panels = charts.panels(len(cases), 2, (920, 90 + rows * (56 + 24 * most)), title, about)
    for panel, case in zip(panels, cases, strict=True):
        _draw_case(panel, case, results.entries[case])
    return charts.svg(figure, title)


def _draw_case(panel: Axes, case: str, entries: Mapping[str, Entry]) -> None:
    charts.title(panel, f"{CASES[case].title}: {'KB for each, less is better' if case == IDLE else 'requests/s'}")
    names = [name for name in SERVERS if name in entries]
    titles = [SERVERS[name].title.partition(":")[0] for name in names]
    colours = [charts.colour(name if name == OURS else "bar") for name in names]
    fills = ["none" if name == LIMIT else colour for name, colour in zip(names, colours, strict=True)]
    bars = panel.barh(titles, [entries[name].value or 0.0 for name in names], color=fills, edgecolor=colours)
    labels = [_written(case, entries[name]) for name in names]
    panel.bar_label(bars, labels, padding=5, color=charts.colour("text"))
    panel.invert_yaxis()
    panel.margins(x=0.2)
    panel.grid(visible=False)
    panel.set_xticks([])


def _written(case: str, entry: Entry) -> str:
    if entry.value is None:
        return "not measured *"
    return (kilobytes if case == IDLE else rate)(entry.value) + ("" if entry.clean else " *")
