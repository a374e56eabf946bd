"""The jobs that wait in a worker's queue: one line for each class, each in the order in which they came.

Decides nothing. It must not know whose turn it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from ..priority import Priority

if TYPE_CHECKING:
    from .job import Job

__all__ = ["Line"]


class Line:
    """As many deques as there are classes."""

    __slots__ = ("_by_class", "_length")

    def __init__(self) -> None:
        self._by_class: tuple[deque[Job], ...] = tuple(deque() for _ in Priority)
        self._length = 0

    def __repr__(self) -> str:
        return f"<Line of {self._length}: {', '.join(str(len(jobs)) for jobs in self._by_class)}>"

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Job]:
        """Go through all, the higher classes first."""
        return chain(*self._by_class)

    def __contains__(self, job: object) -> bool:
        return any(job in jobs for jobs in self._by_class)

    def append(self, job: Job) -> None:
        """Let a job wait behind the others of its class."""
        self._by_class[job.priority].append(job)
        self._length += 1

    def first(self, priority: int) -> Job | None:
        """Return the job of a class that has waited longest."""
        jobs = self._by_class[priority]
        return jobs[0] if jobs else None

    def last(self, priority: int) -> Job | None:
        """Return the job of a class that came last."""
        jobs = self._by_class[priority]
        return jobs[-1] if jobs else None

    def pop(self, priority: int) -> Job:
        """Take the job of a class that has waited longest; IndexError if none of it waits."""
        job = self._by_class[priority].popleft()
        self._length -= 1
        return job

    def remove(self, job: Job) -> None:
        """Take this job; ValueError if it does not wait here."""
        self._by_class[job.priority].remove(job)
        self._length -= 1
