"""Where the statements and the blocks of a function begin and end, as far as its bytecode shows.

Decides at which instruction an exception would leave something half done: between the return of a call and the use of
its result, and where a `try` or `with` block begins or ends. It must not know frames. Up to Python 3.10, blocks begin
and end by instructions; later versions have a table of the instructions whose exceptions are handled.
"""

from __future__ import annotations

import dis
import sys
from bisect import bisect_right
from functools import lru_cache
from types import CodeType
from typing import Any, Final, NamedTuple

__all__ = [
    "CALLS",
    "GOES_ELSEWHERE",
    "JUMPS",
    "calls_enter",
    "calls_exit",
    "change_of_depth",
    "handled",
    "has_value",
    "height",
    "heights",
    "instructions_of",
    "is_at_edge",
    "is_loop",
    "is_within_step",
    "loop_start",
    "returns",
    "returns_soon",
]

CALLS: Final = frozenset(
    {"CALL", "PRECALL", "CALL_FUNCTION", "CALL_METHOD", "CALL_FUNCTION_EX", "CALL_FUNCTION_KW", "CALL_KW"}
)
"""Python 3.11 makes some calls in the instruction PRECALL, once they have been made a few times."""
JUMPS: Final = frozenset({*dis.hasjrel, *dis.hasjabs})

GOES_ELSEWHERE: Final = frozenset(
    {
        *("JUMP_FORWARD", "JUMP_ABSOLUTE", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"),
        *("RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE"),
    }
)
"""Instructions after which the next one is not executed."""
_LEAVES_NOTHING: Final = (
    *(
        "STORE_",
        "DELETE_",
        "POP_",
        "JUMP_",
        "NOP",
        "RESUME",
        "LOAD_FAST",
        "LOAD_CONST",
        "LOAD_DEREF",
        "PUSH_",
        "COPY_FREE",
    ),
    *("LIST_", "SET_ADD", "SET_UPDATE", "MAP_ADD", "DICT_", "END_FOR", "WITH_EXCEPT", "YIELD_VALUE", "EXTENDED_ARG"),
)
"""How the names of instructions begin that run no code, or leave nothing that was not there before."""
_ENTERS: Final = frozenset({"BEFORE_WITH", "SETUP_WITH"})
_BEGINS_BLOCK: Final = frozenset({"SETUP_FINALLY", "SETUP_WITH", "SETUP_ASYNC_WITH", "BEFORE_ASYNC_WITH"})
_ENDS_BLOCK: Final = "POP_BLOCK"
"""Instructions by which blocks begin and end up to Python 3.10."""
_BEGINS_HANDLER: Final = frozenset({"PUSH_EXC_INFO", "WITH_EXCEPT_START"})
"""Instructions before which an exception has been caught, and no `__exit__` has been called for it."""
_RETURNS: Final = frozenset({"RETURN_VALUE", "RETURN_CONST"})
_BEFORE_RETURN: Final = frozenset({"NOP", "SWAP", "ROT_TWO", "BUILD_TUPLE"})
_HAS_TABLE: Final = sys.version_info >= (3, 11)
_NOTHING_THREE_TIMES: Final = ["None"] * 3 if _HAS_TABLE else ["None", "DUP_TOP", "DUP_TOP"]
_EXIT_ARGUMENTS: Final = 2 if _HAS_TABLE else 3
"""How `__exit__(None, None, None)` is called: from 3.11 on the first of them counts as the object of a method."""
_BEFORE_END: Final = frozenset({"NOP", "SWAP", "ROT_TWO"})
"""What may be left of the body of a `with` block behind the instructions that its handler protects."""


@lru_cache(maxsize=128)
def instructions_of(code: CodeType) -> tuple[dis.Instruction, ...]:
    """Return the instructions of a function; some versions of Python leave out CACHE."""
    return tuple(dis.get_instructions(code))


@lru_cache(maxsize=1024)
def handled(code: CodeType) -> Any:
    """Return the entries of the table of handlers; none up to Python 3.10, and in functions without any."""
    return getattr(dis.Bytecode(code), "exception_entries", ())


class _Handler(NamedTuple):
    """What handles the exceptions of some instructions: where it begins, and how much is on the stack then."""

    target: int
    depth: int


def _handler(code: CodeType, offset: int) -> _Handler | None:
    entries = (each for each in handled(code) if each.start <= offset < each.end)
    return next((_Handler(each.target, each.depth) for each in entries), None)


@lru_cache(maxsize=128)
def _offsets(code: CodeType) -> tuple[int, ...]:
    return tuple(each.offset for each in instructions_of(code))


def _index(code: CodeType, offset: int) -> int:
    """Return the index of the instruction at an offset, or before it; -1 if there is none."""
    return bisect_right(_offsets(code), offset) - 1


def _operation(code: CodeType, offset: int) -> str:
    index = _index(code, offset)
    return instructions_of(code)[index].opname if index >= 0 else ""


# Steps.


@lru_cache(maxsize=1024)
def is_within_step(code: CodeType, offset: int) -> bool:
    """Say whether what is raised when an instruction has been executed may miss a block, or lose the result of a call.

    Python 3.10 looks for signals also when it has jumped to a handler, and then names the instruction before.
    """
    if offset < 0 or offset == _entry(code):
        return False
    return not _HAS_TABLE or is_at_edge(code, offset) or _has_result(code, offset)


def _has_result(code: CodeType, offset: int) -> bool:
    """Say whether an instruction makes a call whose result is used."""
    steps = instructions_of(code)
    index = _index(code, offset) + 1
    if not index or steps[index - 1].opname not in CALLS:
        return False
    # PRECALL may have made the call itself.
    passed = ("CACHE", "CALL") if steps[index - 1].opname == "PRECALL" else ("CACHE",)
    following = next((each for each in steps[index:] if each.opname not in passed), None)
    return following is not None and following.opname != "POP_TOP"


def is_loop(code: CodeType, offset: int) -> bool:
    """Say whether an instruction takes the next item of a loop."""
    return _operation(code, offset) == "FOR_ITER"


def has_value(code: CodeType, offset: int) -> bool:
    """Say whether an instruction may leave a value that code of the application or of a library has made."""
    return not _operation(code, offset).startswith(_LEAVES_NOTHING)


def height(code: CodeType, offset: int) -> int | None:
    """Return how many values are on the stack before an instruction; None if that is not known."""
    return heights(code).get(offset)


def returns(code: CodeType, offset: int) -> bool:
    """Say whether an instruction ends the function."""
    return _operation(code, offset) in _RETURNS


@lru_cache(maxsize=1024)
def returns_soon(code: CodeType, offset: int) -> bool:
    """Say whether from an instruction on the function only loads variables, and returns."""
    for each in instructions_of(code)[max(0, _index(code, offset)) :]:
        if each.opname == "CACHE":
            continue
        if each.opname in _RETURNS:
            return True
        if each.opname not in _BEFORE_RETURN and not each.opname.startswith(("LOAD_FAST", "LOAD_CONST")):
            return False
    return False


@lru_cache(maxsize=128)
def heights(code: CodeType) -> dict[int, int]:
    """Return how many values are on the stack before the instruction at each offset, as far as that is known."""
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


# Blocks.


@lru_cache(maxsize=1024)
def is_at_edge(code: CodeType, offset: int) -> bool:
    """Say whether an instruction is at the edge of a `try` or `with` block, begins a handler, or is the word `try`.

    What is raised there may miss the end of the block. In particular, what is raised at the end of a loop counts as
    raised before its beginning, which for a loop that is the first statement of a `try` block lies outside of that.
    The beginning of a function is no edge: what is raised there is raised by the call, and no block has begun. A
    function that calls itself may never be found elsewhere.
    """
    if offset == _entry(code):
        return False
    operation = _operation(code, offset)
    if offset in _ends_of_with(code) or operation in _BEGINS_HANDLER or operation == "NOP":
        return True
    if not handled(code):
        return operation in _BEGINS_BLOCK or operation == _ENDS_BLOCK
    return len({_handler(code, each) for each in _places(code, offset)}) > 1


@lru_cache(maxsize=1024)
def _entry(code: CodeType) -> int | None:
    """Return the offset of the instruction at which a function that has just been called looks for signals."""
    return next((each.offset for each in instructions_of(code) if each.opname == "RESUME"), None)


@lru_cache(maxsize=1024)
def change_of_depth(code: CodeType, offset: int, following: int) -> int:
    """Say whether a `try` or `with` block has begun (1) or ended (-1) between two instructions that follow each other.

    Where one ends and another begins, -1.
    """
    if not handled(code):
        operation = _operation(code, offset)
        return -1 if operation == _ENDS_BLOCK else int(operation in _BEGINS_BLOCK)
    old, new = _handler(code, offset), _handler(code, following)
    if old == new:
        return 0
    return 1 if old is None or (new is not None and new.depth > old.depth) else -1


def calls_enter(code: CodeType, offset: int) -> bool:
    """Say whether an instruction calls the `__enter__` of a `with` block."""
    return _operation(code, offset) in _ENTERS


def calls_exit(code: CodeType, offset: int) -> bool:
    """Say whether an instruction calls the `__exit__` of a `with` block."""
    operation = _operation(code, offset)
    return operation == "WITH_EXCEPT_START" or (operation in CALLS and offset in _ends_of_with(code))


@lru_cache(maxsize=1024)
def _ends_of_with(code: CodeType) -> frozenset[int]:
    """Return the offsets of instructions that call `__exit__(None, None, None)`, which no handler protects any more."""
    steps = [each for each in instructions_of(code) if each.opname not in ("CACHE", "PRECALL")]
    ends: set[int] = set()
    for index in range(len(steps) - 3):
        call = steps[index + 3]
        if call.opname not in CALLS or call.arg != _EXIT_ARGUMENTS:
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
    """Return an offset and that of the next instruction, or if it jumps back, those before and at the target."""
    target = loop_start(code, offset)
    if target is not None:
        return offset, max(0, target - 2), target
    index = _index(code, offset) + 1
    return offset, _offsets(code)[index] if index < len(_offsets(code)) else offset


@lru_cache(maxsize=1024)
def loop_start(code: CodeType, offset: int) -> int | None:
    """Return the offset that an instruction jumps back to; None if it is not the end of a loop."""
    index = _index(code, offset)
    last = instructions_of(code)[index] if index >= 0 else None
    return last.argval if last is not None and last.opcode in JUMPS and last.argval <= offset else None
