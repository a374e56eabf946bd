"""Writes Markdown tables that can be read as they are.

Decides how columns are aligned. It must not know what is in them.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["table"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; its first and last column hold words, those between them numbers."""
    widths = [max(3, *map(len, column)) for column in zip(header, *rows, strict=True)]
    last = len(widths) - 1
    ruler = ["-" * width if number in (0, last) else "-" * (width - 1) + ":" for number, width in enumerate(widths)]
    return "\n".join(_line(cells, widths) for cells in (header, ruler, *rows))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    middle = [cell.rjust(width) for cell, width in zip(cells[1:-1], widths[1:-1], strict=True)]
    return f"| {' | '.join([cells[0].ljust(widths[0]), *middle, cells[-1].ljust(widths[-1])])} |"
