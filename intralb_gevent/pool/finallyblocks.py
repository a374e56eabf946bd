"""Which lines of a function are in a `finally` block.

The bytecode does not tell: Python compiles such a block once for each way into it. So the source is read, as far as it
is there. Nothing of the application is called for it, and nothing is raised, as this runs in the hub and in the
watchdog's signal handler.
"""

from __future__ import annotations

import ast
import dis
import linecache
from collections.abc import Sequence
from functools import lru_cache
from types import CodeType
from typing import Final

__all__ = ["is_in_finally"]

_TRIES: Final = (ast.Try, getattr(ast, "TryStar", ast.Try))
"""`except*` has a node of its own, from Python 3.11 on."""

_IN_SUCH: Final = frozenset({dis.opmap["RERAISE"], dis.opmap["NOP"]})
"""Instructions of which a function with a `finally` block has one; NOP is what is left of `try: pass`."""

_MOST_LINES: Final = 1000
"""A longer function is not looked at: parsing takes about 15 ms for each thousand lines."""

_MORE_LINES: Final = 20
"""How many lines may follow the last one that has bytecode, such as that of a closing parenthesis."""


def is_in_finally(code: CodeType, line: int | None) -> bool:
    """Say whether a line of a function is in a `finally` block; False where there is no line, or no source to read."""
    # Most functions have no such block, and their source need not be read.
    if line is None or _IN_SUCH.isdisjoint(code.co_code[::2]):
        return False
    return any(first <= line <= last for first, last in _finally_blocks(code, code.co_filename))


@lru_cache(maxsize=512)
def _finally_blocks(code: CodeType, filename: str) -> tuple[tuple[int, int], ...]:
    """Return the first and the last line of each block; code objects of several files may be equal."""
    first = max(code.co_firstlineno, 1)
    last = max((line for *_, line in code.co_lines() if line), default=first)
    if last - first > _MOST_LINES:
        return ()
    try:
        tree = _parsed(linecache.getlines(filename)[first - 1 : last + _MORE_LINES], last - first + 1)
    except Exception:
        # The source may be another one by now, or no Python at all, as that of a template.
        return ()
    # One line more was parsed before the first.
    before = first - 2
    blocks = [node.finalbody for node in ast.walk(tree) if isinstance(node, _TRIES) and node.finalbody]
    return tuple((block[0].lineno + before, (block[-1].end_lineno or block[-1].lineno) + before) for block in blocks)


def _parsed(lines: Sequence[str], count: int) -> ast.AST:
    """Parse a function of about so many lines, which may be indented; raises SyntaxError."""
    indented = [line if lines[0][:1].isspace() else f" {line}" for line in lines]
    for more in range(_MORE_LINES):
        try:
            return ast.parse("if True:\n" + "".join(indented[: count + more]))
        except SyntaxError:
            continue
    return ast.parse("if True:\n" + "".join(indented))
