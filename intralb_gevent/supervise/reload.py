"""The state of the latest reload, as shown in the log, in STATUS= and on the admin pages."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..config.processes import ProcessOptions

__all__ = ["Reload"]


class Reload:
    """The running or the latest reload: its result, and the settings to return to if the reload fails."""

    def __init__(self, options: ProcessOptions, known: Mapping[str, Any]) -> None:
        """Restore the state from `known`, which a predecessor has written; `known` is empty if there was no
        predecessor."""
        self.result = str(known.get("result", "none"))
        """Result of the latest reload: none, running, done or failed."""
        self.cause = str(known.get("cause", ""))
        self.at = float(known.get("at", 0.0))
        """Time of the last change of `result`, in seconds since the epoch."""
        self.options = options
        """The settings to return to if the reload fails."""
        self.wanted = int(known.get("wanted", 0))
        """The number of processes to return to if the reload fails."""

    def __repr__(self) -> str:
        return f"<Reload {self.result}>"

    @property
    def running(self) -> bool:
        """True while a reload has neither succeeded nor failed."""
        return self.result == "running"

    def begin(self, options: ProcessOptions, wanted: int) -> None:
        """Begin a reload; `options` and `wanted` are the settings and the number of processes to return to."""
        if not self.running:
            self.wanted = wanted
        self.options = options
        self._become("running")

    def succeed(self) -> None:
        """End the reload with success, because all processes are of the new generation."""
        self._become("done")

    def fail(self, cause: str) -> None:
        """End the reload with a failure, because the new generation cannot start."""
        self._become("failed", cause)

    def _become(self, result: str, cause: str = "") -> None:
        self.result, self.cause, self.at = result, " ".join(cause.split()), time.time()

    def as_dict(self) -> dict[str, Any]:
        """Return the state as a dictionary that can be written as JSON."""
        return {"result": self.result, "cause": self.cause, "at": self.at, "wanted": self.wanted}
