"""Find problems that an application will have under gevent, by inspecting a process that has imported the application.

There is one module for each kind of problem. A problem is reported as a warning only if it is certain, because a false
alarm costs more than a missed problem. The check imports no module that the application has not imported. The only
exception is the URLconf of a Django project, which Django imports at the first request.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

from ...config.options import Options
from .asynchronous import async_calls, async_views
from .drivers import blocking_drivers
from .filelocks import blocking_file_locks
from .findings import Finding, some
from .patching import imported_too_early
from .pools import connections_for_each_request, short_pools
from .processes import SESSIONS_REMEDY, multiplied, sessions_of_all
from .processlocks import process_locks, process_pools
from .protection import unprotected
from .socketio import scattered_sessions

__all__ = ["SESSIONS_REMEDY", "Finding", "at_start", "findings", "report", "sessions_of_all", "some"]

_WIDTH = 100


def findings(
    options: Options, early: Collection[str] | None = None, processes: int = 1, sized: bool = False
) -> list[Finding]:
    """Return all findings for this number of processes, each of which has a balancer with these options.

    `early` contains the names of the modules that were imported before patching; None means that they are unknown.
    `sized` is True if the user has set the number of slots.
    """
    slots = options.max_workers * options.max_concurrent_per_router
    # Check views first: this imports Django's URLconf, which imports more modules for the other checks to inspect.
    views = async_views()
    pools = [*short_pools(slots, sized), *connections_for_each_request(slots), *multiplied(options, processes)]
    own_code = [*async_calls(), *blocking_file_locks(), *process_locks(), *process_pools()]
    protection = unprotected(options.integrations)
    drivers = [*imported_too_early(early), *blocking_drivers(options.integrations)]
    return [*drivers, *views, *own_code, *pools, *scattered_sessions(processes), *protection]


def at_start(early: Collection[str]) -> list[Finding]:
    """Return warnings about problems that block all requests; a server logs these warnings at its start."""
    found = [*imported_too_early(early), *blocking_drivers()]
    return [finding for finding in found if finding.severity == "warning"]


def report(application: str, found: Sequence[Finding]) -> str:
    """Return the findings as text for a terminal."""
    if not found:
        return f"{application}: found nothing that hurts under gevent"
    return "\n\n".join([f"{application}: {_total(found)}", *map(_paragraph, found)])


def _total(found: Sequence[Finding]) -> str:
    counts = {word: sum(finding.severity == word for finding in found) for word in ("warning", "hint")}
    return ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for word, count in counts.items() if count)


def _paragraph(finding: Finding) -> str:
    title = f"{finding.severity}: {finding.title}"
    body = (finding.detail, f"Remedy: {finding.remedy}.")
    return "\n".join([title, *(textwrap.indent(textwrap.fill(text, _WIDTH), "  ") for text in body)])
