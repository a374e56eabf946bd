"""The most recently rejected requests, with the numbers that explain each rejection.

Rejections are recorded only if there is an admin server; otherwise, they are only counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

__all__ = ["Refusal", "Refusals", "leading_client"]

_LONGEST_TEXT: Final = 120
"""Maximum length of a path and of other text from a client."""

_LONGEST_ID: Final = 128
"""Maximum length of a request id; the log has the same maximum."""


class Refusal(NamedTuple):
    """One rejected request. The record contains no query string, header field or body."""

    number: int
    """Sequence number of the rejection in this process, starting at 1."""
    at: float
    """Time of the rejection, in `time.time()` seconds."""
    lane: str
    reason: str
    method: str
    path: str
    client: str
    """Address of the client."""
    priority: str
    request_id: str
    ahead: int
    """Number of requests that would have started before this one."""
    expected_wait: float
    """Predicted time in seconds for which the request would have waited in the queue."""
    left: float
    """Seconds that were left until the request's deadline."""


class Refusals:
    """The last `KEPT` rejections, the oldest first."""

    KEPT: Final = 200
    PERIOD_SECONDS: Final = 0.1
    MOST_IN_PERIOD: Final = 100
    """Maximum number of rejections recorded in `PERIOD_SECONDS`; the limit keeps rejections cheap."""

    def __init__(self) -> None:
        self._period_ends = self._period_began_at = 0.0
        self._before_period = 0
        self._kept: deque[Refusal] = deque(maxlen=self.KEPT)
        self.count = 0
        """Number of rejections recorded so far."""

    def __repr__(self) -> str:
        return f"<Refusals {self.count} so far>"

    def wants(self, at: float) -> bool:
        """Return whether a rejection at `at`, in `time.time()` seconds, should be recorded."""
        if at >= self._period_ends or at < self._period_began_at:
            self._period_began_at, self._period_ends = at, at + self.PERIOD_SECONDS
            self._before_period = self.count
            return True
        return self.count - self._before_period < self.MOST_IN_PERIOD

    def add(
        self,
        environ: dict[str, Any],
        *,
        at: float,
        lane: str,
        reason: str,
        priority: str,
        ahead: int,
        expected_wait: float,
        left: float,
    ) -> None:
        """Record a rejection. This method never raises an exception, whatever the environ contains."""
        self.count += 1
        path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
        refusal = Refusal(
            self.count,
            at,
            lane,
            reason,
            str(environ.get("REQUEST_METHOD", ""))[:_LONGEST_TEXT],
            path[:_LONGEST_TEXT],
            str(environ.get("REMOTE_ADDR", ""))[:_LONGEST_TEXT],
            priority,
            str(environ.get("intralb.request_id", ""))[:_LONGEST_ID],
            ahead,
            expected_wait,
            left,
        )
        self._kept.append(refusal)

    def since(self, number: int) -> list[Refusal]:
        """Return the recorded rejections whose sequence numbers are above `number`, the oldest first."""
        wanted = min(self.count - number, len(self._kept))
        return list(self._kept)[len(self._kept) - wanted :] if wanted > 0 else []

    def recent(self, lane: str, since: float) -> list[Refusal]:
        """Return the recorded rejections of a lane since the time `since`, in `time.time()` seconds."""
        return [each for each in self._kept if each.at >= since and each.lane == lane]


def leading_client(refusals: Iterable[Refusal]) -> tuple[str, float]:
    """Return the client with the most rejections, and its share of all rejections; ("", 0.0) if there are none."""
    counts = Counter(each.client for each in refusals)
    if not counts:
        return "", 0.0
    client, most = counts.most_common(1)[0]
    return client, most / counts.total()
