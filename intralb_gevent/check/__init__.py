"""What will hurt an application under gevent, found by looking at the process that has imported it.

Decides what is looked for and how it is told; each kind has a module of its own. Only what is certain is a
warning: a false alarm costs more than a silence. It must not import what the application has not imported, except
the URLs of a Django project, which Django imports at the first request.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

from ..options import Options
from .asynchronous import async_calls, async_views
from .drivers import blocking_drivers
from .filelocks import blocking_file_locks
from .findings import Finding, some
from .patching import imported_too_early
from .pools import connections_for_each_request, short_pools
from .processlocks import process_locks, process_pools
from .protection import unprotected

__all__ = ["Finding", "at_start", "findings", "report", "some"]

_WIDTH = 100


def findings(options: Options, early: Collection[str] | None = None) -> list[Finding]:
    """Return all that is found, for a balancer with these options.

    `early` names the modules imported before patching; None when that is not known.
    """
    slots = options.max_workers * options.max_concurrent_per_router
    # First, as the URLs of Django import more of the application.
    views = async_views()
    pools = [*short_pools(slots), *connections_for_each_request()]
    own_code = [*async_calls(), *blocking_file_locks(), *process_locks(), *process_pools()]
    protection = unprotected(options.integrations)
    return [*imported_too_early(early), *blocking_drivers(options.integrations), *views, *own_code, *pools, *protection]


def at_start(early: Collection[str]) -> list[Finding]:
    """Return the warnings of what stops every request, for a server to give when it starts."""
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
