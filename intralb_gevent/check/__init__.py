"""What will hurt an application under gevent, found by looking at the process that has imported it.

Decides what is looked for and how it is told; each kind has a module of its own. Only what is certain is a
warning: a false alarm costs more than a silence. It must not import what the application has not imported.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

from ..options import Options
from .drivers import blocking_drivers
from .findings import Finding
from .patching import imported_too_early
from .pools import connections_for_each_request, short_pools

__all__ = ["Finding", "at_start", "findings", "report"]

_WIDTH = 100


def findings(options: Options, early: Collection[str] | None = None) -> list[Finding]:
    """Return all that is found, for a balancer with these options.

    `early` names the modules imported before patching; None when that is not known.
    """
    slots = options.max_workers * options.max_concurrent_per_router
    pools = [*short_pools(slots), *connections_for_each_request()]
    return [*imported_too_early(early), *blocking_drivers(), *pools]


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
