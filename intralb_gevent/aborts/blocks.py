"""Finds where the statements and blocks of a function begin and end, from the function's bytecode.

This module determines at which instructions an exception would leave an operation half done. An exception is unsafe
between the return of a call and the use of its result, and where a `try` or `with` block begins or ends. The beginnings
and ends of blocks are read from a function's exception table, which maps ranges of instructions to exception handlers.
"""

from __future__ import annotations

import dis
from bisect import bisect_right
from functools import lru_cache
from types import CodeType
from typing import Any, Final, NamedTuple

__all__ = [
    "CALLS",
    "GOES_ELSEWHERE",
    "JUMPS",
    "block_handlers",
    "calls_enter",
    "calls_exit",
    "change_of_depth",
    "ends_loop",
    "entered_at",
    "handled",
    "has_value",
    "height",
    "heights",
    "instructions_of",
    "is_at_edge",
    "is_loop",
    "is_with_handler",
    "is_within_step",
    "loop_start",
    "returns",
    "returns_soon",
]

CALLS: Final = frozenset({"CALL", "PRECALL", "CALL_FUNCTION_EX", "CALL_KW"})
"""Instructions that make a call. After a few executions, Python 3.11 makes some calls in PRECALL instead of CALL."""
JUMPS: Final = frozenset({*dis.hasjrel, *dis.hasjabs})

GOES_ELSEWHERE: Final = frozenset(
    {
        *("JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"),
        *("RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"),
    }
)
"""Instructions that never pass control to the next instruction."""
_LOADS_VARIABLE_OR_CONSTANT: Final = ("LOAD_FAST", "LOAD_CONST", "LOAD_SMALL_INT", "LOAD_COMMON_CONSTANT")
_LEAVES_NOTHING: Final = (
    *_LOADS_VARIABLE_OR_CONSTANT,
    *("STORE_", "DELETE_", "POP_", "JUMP_", "NOP", "NOT_TAKEN", "RESUME", "LOAD_DEREF", "PUSH_", "COPY_FREE"),
    *("LIST_", "SET_ADD", "SET_UPDATE", "MAP_ADD", "DICT_", "END_FOR", "WITH_EXCEPT", "YIELD_VALUE", "EXTENDED_ARG"),
)
"""Name prefixes of instructions that run no application code, or leave no new value on the stack."""
_ENTERS: Final = frozenset({"BEFORE_WITH", *CALLS})
"""Instructions that call the `__enter__` of a `with` block, right before the block."""
_LOOKS_UP_SPECIAL: Final = "LOAD_SPECIAL"
"""From Python 3.14 on, separate instructions look up the `__enter__` and the `__exit__` of a `with` block."""
_PREPARES_ENTER: Final = frozenset({_LOOKS_UP_SPECIAL, "COPY", "SWAP"})
_BEGINS_HANDLER: Final = frozenset({"PUSH_EXC_INFO", "WITH_EXCEPT_START"})
"""Instructions that run after an exception in a `with` block, up to the call of the block's `__exit__`."""
_RETURNS: Final = frozenset({"RETURN_VALUE", "RETURN_CONST"})
_BEFORE_RETURN: Final = frozenset({"NOP", "SWAP", "BUILD_TUPLE"})
_NOTHING_THREE_TIMES: Final = ["None"] * 3
_EXIT_ARGUMENTS: Final = 3 if _LOOKS_UP_SPECIAL in dis.opmap else 2
"""Argument count in the bytecode of the call `__exit__(None, None, None)`. If the look-up of `__exit__` leaves a single
value on the stack, the first None is in the place of `self`, and is not counted."""
_LOADS: Final = ("LOAD_", "PUSH_NULL")
"""Name prefixes of instructions that load the callable of an ordinary call. The `__exit__` of a `with` block has been
on the stack since the start of the block."""
_PARTS: Final = frozenset({"CACHE", "EXTENDED_ARG", "PRECALL"})
"""Instructions that only complete the next one."""
_BEFORE_END: Final = frozenset({"NOP", "SWAP"})
"""Instructions at the end of a `with` block's body that the block's exception handler may not cover."""


@lru_cache(maxsize=128)
def instructions_of(code: CodeType) -> tuple[dis.Instruction, ...]:
    """Return the instructions of a function; some versions of Python omit CACHE instructions."""
    return tuple(dis.get_instructions(code))


@lru_cache(maxsize=1024)
def handled(code: CodeType) -> Any:
    """Return the entries of a function's exception table; the table of a function without exception handlers is
    empty."""
    return getattr(dis.Bytecode(code), "exception_entries")  # noqa: B009  # missing in typeshed


class _Handler(NamedTuple):
    """An exception handler: the offset of its first instruction, and the height of the stack on entry."""

    target: int
    depth: int


def _handler(code: CodeType, offset: int) -> _Handler | None:
    entries = (each for each in handled(code) if each.start <= offset < each.end)
    return next((_Handler(each.target, each.depth) for each in entries), None)


@lru_cache(maxsize=128)
def _offsets(code: CodeType) -> tuple[int, ...]:
    return tuple(each.offset for each in instructions_of(code))


def _index(code: CodeType, offset: int) -> int:
    """Return the index of the last instruction that begins at or before an offset; -1 if there is no such
    instruction."""
    return bisect_right(_offsets(code), offset) - 1


def _operation(code: CodeType, offset: int) -> str:
    index = _index(code, offset)
    return instructions_of(code)[index].opname if index >= 0 else ""


# The functions below examine instructions within a statement.


@lru_cache(maxsize=1024)
def is_within_step(code: CodeType, offset: int) -> bool:
    """Return whether an exception right after an instruction may bypass a block's handler, or lose a call's result."""
    if offset < 0 or offset == _entry(code):
        return False
    return is_at_edge(code, offset) or _has_result(code, offset)


def _has_result(code: CodeType, offset: int) -> bool:
    """Return whether an instruction makes a call whose result is used."""
    steps = instructions_of(code)
    index = _index(code, offset) + 1
    if not index or steps[index - 1].opname not in CALLS:
        return False
    # Skip the CALL that follows a PRECALL, because PRECALL may have made the call.
    passed = ("CACHE", "CALL") if steps[index - 1].opname == "PRECALL" else ("CACHE",)
    following = next((each for each in steps[index:] if each.opname not in passed), None)
    return following is not None and following.opname != "POP_TOP"


def is_loop(code: CodeType, offset: int) -> bool:
    """Return whether an instruction fetches the next item of a loop."""
    return _operation(code, offset) == "FOR_ITER"


def ends_loop(code: CodeType, offset: int, following: int) -> bool:
    """Return whether an instruction has found no next item of a loop, so that the loop has ended.

    `following` is the offset of the instruction that was executed next.
    """
    return is_loop(code, offset) and following >= instructions_of(code)[_index(code, offset)].argval


def has_value(code: CodeType, offset: int) -> bool:
    """Return whether an instruction may push a value that code of the application or of a library has produced."""
    return not _operation(code, offset).startswith(_LEAVES_NOTHING)


def height(code: CodeType, offset: int) -> int | None:
    """Return the stack height before an instruction; None if the height is unknown."""
    return heights(code).get(offset)


def returns(code: CodeType, offset: int) -> bool:
    """Return whether an instruction returns from the function."""
    return _operation(code, offset) in _RETURNS


@lru_cache(maxsize=1024)
def returns_soon(code: CodeType, offset: int) -> bool:
    """Return whether the rest of a function, from an instruction on, only loads values and returns them."""
    for each in instructions_of(code)[max(0, _index(code, offset)) :]:
        if each.opname == "CACHE":
            continue
        if each.opname in _RETURNS:
            return True
        if each.opname not in _BEFORE_RETURN and not each.opname.startswith(_LOADS_VARIABLE_OR_CONSTANT):
            return False
    return False


@lru_cache(maxsize=128)
def heights(code: CodeType) -> dict[int, int]:
    """Return the stack height before the instruction at each offset; offsets with an unknown height are absent."""
    known = {entry.target: entry.depth + 1 + entry.lasti for entry in handled(code)}
    depth: int | None = 0
    for each in instructions_of(code):
        depth = known.setdefault(each.offset, depth) if depth is not None else known.get(each.offset)
        if depth is None:
            continue
        if each.opcode in JUMPS:
            known.setdefault(each.argval, depth + dis.stack_effect(each.opcode, each.arg, jump=True))
        goes_on = each.opname not in GOES_ELSEWHERE
        depth = depth + dis.stack_effect(each.opcode, each.arg, jump=False) if goes_on else None
    return known


# The functions below examine `try` and `with` blocks.


@lru_cache(maxsize=1024)
def is_at_edge(code: CodeType, offset: int) -> bool:
    """Return whether an instruction is at the edge of a `try` or `with` block.

    The first instructions of an exception handler also count as edges, and so does a NOP, because a `try` block may
    start with a NOP. An exception at the edge of a block may bypass the block's handler. In particular, Python treats
    an exception at the end of a loop as if the instruction before the loop had raised it. If the loop is the first
    statement of a `try` block, the instruction before the loop is outside of the block. The start of a function is not
    an edge: no block has begun, so an exception at the start has the same effect as an exception that the call raises.
    In endless recursion, the start of the function may be the only point where an abort is possible.
    """
    if offset == _entry(code):
        return False
    operation = _operation(code, offset)
    if offset in _ends_of_with(code) or operation in _BEGINS_HANDLER or operation == "NOP":
        return True
    return len({_handler(code, each) for each in _places(code, offset)}) > 1


@lru_cache(maxsize=1024)
def _entry(code: CodeType) -> int | None:
    """Return the offset of the instruction at which a function first checks for signals, right after the call."""
    return next((each.offset for each in instructions_of(code) if each.opname == "RESUME"), None)


@lru_cache(maxsize=1024)
def change_of_depth(code: CodeType, offset: int, following: int) -> int:
    """Return how the number of open `try` and `with` blocks changes between two consecutive instructions.

    The result is 1 if a block has begun, -1 if a block has ended (even if another block has begun), and 0 otherwise.
    """
    old, new = _handler(code, offset), _handler(code, following)
    if old == new:
        return 0
    return 1 if old is None or (new is not None and new.depth > old.depth) else -1


def block_handlers(code: CodeType, offset: int) -> tuple[int, ...]:
    """Return the offsets of the exception handlers of the blocks around an instruction, from the innermost outwards."""
    found: list[int] = []
    handler = _handler(code, offset)
    while handler is not None and handler.target not in found:
        found.append(handler.target)
        handler = _handler(code, handler.target)
    return tuple(found)


def is_with_handler(code: CodeType, target: int) -> bool:
    """Return whether the exception handler at an offset belongs to a `with` block."""
    following = instructions_of(code)[_index(code, target) :][:2]
    return [each.opname for each in following] == ["PUSH_EXC_INFO", "WITH_EXCEPT_START"]


def entered_at(code: CodeType, target: int) -> int:
    """Return the offset at which the object of a `with` block is on top of the stack, before `__enter__` is called.

    `target` is the offset of the exception handler of the block.
    """
    steps, index = instructions_of(code), _index(code, _call_of_enter(code, target))
    while steps[index - 1].opname in _PREPARES_ENTER:
        index -= 1
    return steps[index].offset


def _call_of_enter(code: CodeType, target: int) -> int:
    """Return the offset of the instruction before the block whose exception handler is at the offset `target`."""
    start = min(each.start for each in handled(code) if each.target == target)
    return _offsets(code)[_index(code, start) - 1]


def calls_enter(code: CodeType, offset: int) -> bool:
    """Return whether an instruction calls the `__enter__` of a `with` block."""
    return _operation(code, offset) in _ENTERS and offset in _starts_of_with(code)


@lru_cache(maxsize=1024)
def _starts_of_with(code: CodeType) -> frozenset[int]:
    """Return the offsets of the instructions right before the `with` blocks of a function."""
    targets = {each.target for each in handled(code)}
    return frozenset(_call_of_enter(code, each) for each in targets if is_with_handler(code, each))


def calls_exit(code: CodeType, offset: int) -> bool:
    """Return whether an instruction calls the `__exit__` of a `with` block."""
    operation = _operation(code, offset)
    return operation == "WITH_EXCEPT_START" or (operation in CALLS and offset in _ends_of_with(code))


@lru_cache(maxsize=1024)
def _ends_of_with(code: CodeType) -> frozenset[int]:
    """Return the offsets of the instructions that call `__exit__(None, None, None)`; no handler covers these
    instructions."""
    steps = [each for each in instructions_of(code) if each.opname not in _PARTS]
    ends: set[int] = set()
    for index in range(1, len(steps) - 3):
        call = steps[index + 3]
        if call.opname not in CALLS or call.arg != _EXIT_ARGUMENTS or steps[index - 1].opname.startswith(_LOADS):
            continue
        if [_pushed(each) for each in steps[index : index + 3]] != _NOTHING_THREE_TIMES:
            continue
        while index and steps[index - 1].opname in _BEFORE_END:
            index -= 1
        ends.update(range(steps[index].offset, call.offset + 1))
    return frozenset(ends)


def _pushed(instruction: dis.Instruction) -> str:
    return "None" if instruction.opname == "LOAD_CONST" and instruction.argval is None else instruction.opname


def _places(code: CodeType, offset: int) -> tuple[int, ...]:
    """Return the offset of an instruction and the offset of the instruction that follows.

    If the instruction jumps back, return its offset, an offset just before the target of the jump, and the target.
    """
    target = loop_start(code, offset)
    if target is not None:
        return offset, max(0, target - 2), target
    index = _index(code, offset) + 1
    return offset, _offsets(code)[index] if index < len(_offsets(code)) else offset


@lru_cache(maxsize=1024)
def loop_start(code: CodeType, offset: int) -> int | None:
    """Return the offset to which an instruction jumps back; None if the instruction does not end a loop."""
    index = _index(code, offset)
    last = instructions_of(code)[index] if index >= 0 else None
    return last.argval if last is not None and last.opcode in JUMPS and last.argval <= offset else None
