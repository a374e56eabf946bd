"""What was measured: of each case, each server's rounds, and what follows from them.

Decides medians, ratios and the form on disk. It must not know how things are measured or shown.
"""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median

from . import BenchmarkError
from .cases import CASES, IDLE
from .servers import LIMIT, OURS, SERVERS

__all__ = ["Entry", "Measurement", "Results", "as_json", "load"]


@dataclass(frozen=True)
class Measurement:
    """One server in one case, once."""

    value: float
    """Right answers per second; of idle connections, bytes each."""
    memory: int
    """Resident memory of the server's processes at most, in bytes; of idle connections, with all of them."""
    errors: Mapping[str, int] = field(default_factory=dict)
    p50: float = 0.0
    """In milliseconds, as p99 is."""
    p99: float = 0.0
    server_busy: float = 0.0
    """How much of its core the server used: 1 is all of it."""
    generator_busy: float = 0.0

    @property
    def cpu_microseconds(self) -> float:
        """The server's processor time for each right answer."""
        return self.server_busy / self.value * 1e6 if self.value else 0.0


@dataclass
class Entry:
    """One server in one case, in every round."""

    measurements: list[Measurement] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Why there is no measurement of a round."""

    def median(self, name: str) -> float:
        """Return the median of one figure over the rounds."""
        return float(median(getattr(measurement, name) for measurement in self.measurements))

    @property
    def value(self) -> float | None:
        """The median of the case's own figure, or None if it was never measured."""
        return self.median("value") if self.measurements else None

    @property
    def errors(self) -> Counter[str]:
        """What went wrong in all rounds together."""
        return sum((Counter(measurement.errors) for measurement in self.measurements), Counter())

    @property
    def clean(self) -> bool:
        """Whether every round could be measured and nothing went wrong in it."""
        return not self.errors and not self.failures


@dataclass
class Results:
    """All of it, and the circumstances."""

    about: dict[str, str] = field(default_factory=dict)
    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    """By the names of case and server."""

    def entry(self, case: str, server: str) -> Entry:
        """Return the place for a server in a case."""
        return self.entries.setdefault(case, {}).setdefault(server, Entry())

    def value(self, case: str, server: str) -> float | None:
        """Return a server's figure in a case, or None."""
        entry = self.entries.get(case, {}).get(server)
        return entry.value if entry else None

    def advantage(self, case: str, server: str) -> float | None:
        """Return how many times better we are than a server, or None if one of us was not measured."""
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
        """Whether something could not be measured."""
        return any(entry.failures for servers in self.entries.values() for entry in servers.values())


def as_json(results: Results) -> str:
    """Return the results as text that `load` reads."""
    return json.dumps(asdict(results), indent=2) + "\n"


def load(path: pathlib.Path) -> Results:
    """Read a file of what `as_json` has returned. Raises `BenchmarkError`."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        results = Results(stored["about"])
        for case, servers in stored["entries"].items():
            for server, entry in servers.items():
                known = results.entry(CASES[case].name, SERVERS[server].name)
                known.measurements = [Measurement(**measurement) for measurement in entry["measurements"]]
                known.failures = list(entry["failures"])
    except OSError as error:
        raise BenchmarkError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{str(path)!r} is not a file of results: {error!r}") from None
    return results
