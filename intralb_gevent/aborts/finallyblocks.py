"""Finds the lines of a function that are in a `finally` block.

The bytecode does not mark the lines of a `finally` block, because Python compiles the block several times, once for
each way to enter it. Therefore, this module parses the source code, if the source code is available. This module calls
no application code and raises no exceptions, because it runs in the hub and in the watchdog's signal handler.
"""

from __future__ import annotations

import ast
import dis
import linecache
import warnings
from collections.abc import Sequence
from functools import lru_cache
from types import CodeType
from typing import Final

__all__ = ["is_in_finally"]

_TRIES: Final = (ast.Try, getattr(ast, "TryStar", ast.Try))
"""AST nodes of `try` statements; from Python 3.11 on, there is a separate node for `except*`."""

_IN_SUCH: Final = frozenset({dis.opmap["RERAISE"], dis.opmap["NOP"]})
"""Every function with a `finally` block contains at least one of these instructions, for example NOP after `try:
pass`."""

_MOST_LINES: Final = 1000
"""Functions with more lines than this are not parsed, because parsing takes about 15 ms per thousand lines."""

_MORE_LINES: Final = 20
"""Maximum number of lines without bytecode at the end of a function; a line with only a closing parenthesis, for
example, has no bytecode."""


def is_in_finally(code: CodeType, line: int | None) -> bool:
    """Return whether a line of a function is in a `finally` block; False if the line or the source is unknown."""
    # Do not read the source if the bytecode shows that there is no `finally` block, as in most functions.
    if line is None or _IN_SUCH.isdisjoint(code.co_code[::2]):
        return False
    return any(first <= line <= last for first, last in _finally_blocks(code, code.co_filename))


@lru_cache(maxsize=512)
def _finally_blocks(code: CodeType, filename: str) -> tuple[tuple[int, int], ...]:
    """Return the numbers of the first and last line of each `finally` block.

    `filename` is part of the cache key, because code objects of different files may be equal.
    """
    first = max(code.co_firstlineno, 1)
    last = max((line for *_, line in code.co_lines() if line), default=first)
    if last - first > _MOST_LINES:
        return ()
    try:
        with warnings.catch_warnings():
            # Python has shown the warnings when it compiled the file; if warnings are errors, parsing would fail.
            warnings.simplefilter("ignore")
            tree = _parsed(linecache.getlines(filename)[first - 1 : last + _MORE_LINES], last - first + 1)
    except Exception:
        # The source file may have changed since it was imported, or it may be a template instead of Python code.
        return ()
    # Subtract 2, because line numbers begin with 1, and `_parsed` has added one line before the function.
    before = first - 2
    blocks = [node.finalbody for node in ast.walk(tree) if isinstance(node, _TRIES) and node.finalbody]
    return tuple((block[0].lineno + before, (block[-1].end_lineno or block[-1].lineno) + before) for block in blocks)


def _parsed(lines: Sequence[str], count: int) -> ast.AST:
    """Parse a function of about `count` lines, whose source may be indented; raises SyntaxError if parsing fails."""
    indented = [line if lines[0][:1].isspace() else f" {line}" for line in lines]
    for more in range(_MORE_LINES):
        try:
            return ast.parse("if True:\n" + "".join(indented[: count + more]))
        except SyntaxError:
            continue
    return ast.parse("if True:\n" + "".join(indented))
