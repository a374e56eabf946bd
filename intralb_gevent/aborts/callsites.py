"""Determines which callable a frame is calling, from the frame's bytecode.

Python does not expose which callable a frame is calling. But the instructions before the call show how the callable was
loaded, usually from a variable and some attributes. The variable and the attributes can be looked up without running
any code of the application. If the callable cannot be looked up, the name of the called method may still be known. In
`get_connection().execute()`, for example, the name `execute` is known, but the object that has this method is not.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from functools import lru_cache, partial
from inspect import getattr_static
from types import BuiltinFunctionType, CodeType, FrameType, MethodWrapperType
from typing import Any, Final, NamedTuple

from ..framevariables import has_variable, variables
from .blocks import CALLS, GOES_ELSEWHERE, JUMPS, heights, instructions_of

__all__ = ["CallSite", "arguments", "call_site", "callee", "first_argument", "is_a", "path_before", "value_at"]

_SILENT: Final = frozenset(
    {
        *("POP_TOP", "POP_ITER", "POP_EXCEPT", "RETURN_VALUE", "END_FOR"),
        *("STORE_FAST_LOAD_FAST", "STORE_FAST_STORE_FAST"),
        *(f"{action}_{kind}" for action in ("STORE", "DELETE") for kind in ("FAST", "NAME", "GLOBAL", "DEREF")),
    }
)
"""Instructions that make no call. When an instruction that makes no call drops a reference, Python itself may call
finalizers and weakref callbacks."""

_ARGUMENTS_AND_NAMES: Final = frozenset({"CALL_FUNCTION_KW", "CALL_KW"})
_VARIABLES: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF"})
_ATTRIBUTES: Final = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_BETWEEN: Final = frozenset({"PUSH_NULL", "CACHE"})
_PARTS_OF_CALL: Final = frozenset({"CACHE", "PRECALL", "KW_NAMES"})
_BEGINS_LOOP: Final = frozenset({"GET_ITER", "LOAD_FAST_AND_CLEAR", "SWAP", "BUILD_LIST", "BUILD_SET", "BUILD_MAP"})
"""Instructions that can stand between the load of an iterable and the loop over it. From Python 3.12 on, inlined
comprehensions add instructions between the load and the loop."""
_SUPER: Final = "super()"
"""First element of a path that begins with `super()`; the next element is looked up in the base classes of the method's
class."""

_SUPER_WITH_ARGUMENTS: Final = 2
"""Bit in the argument of LOAD_SUPER_ATTR that is set for `super(Class, self)`, but not for `super()`."""


class CallSite(NamedTuple):
    """Describes the instruction that a frame is executing."""

    silent: bool
    """True if the instruction makes no call; the next inner frame, for example a finalizer, was then called by Python
    itself."""
    path: tuple[str, ...]
    """Names of the variable and the attributes through which the callable was loaded; empty if these names are unknown,
    or if the instruction makes no call."""
    name: str = ""
    """Name of the last attribute through which the callable was loaded; this name may be known even if `path` is
    empty."""
    arguments: tuple[tuple[str, ...], ...] = ()
    """Paths of the values that are loaded for the arguments of the call; each path is a variable with attributes."""
    spreads: bool = False
    """True for a call such as `function(*values)`, which begins by iterating over the values."""


@lru_cache(maxsize=1024)
def call_site(code: CodeType, offset: int) -> CallSite:
    """Return the call site at an offset in a function's bytecode, such as a frame's `f_lasti`."""
    instructions = [each for each in instructions_of(code) if each.offset <= offset]
    if not instructions:
        return CallSite(False, ())
    last = instructions[-1]
    if last.opname == "FOR_ITER":
        return _site_of_loop(code, instructions[:-1])
    if last.opname not in CALLS:
        return CallSite(last.opname in _SILENT, ())
    before, between = _split(code, instructions)
    path, attributes = _path(before)
    name, spreads = attributes[-1] if attributes else "", last.opname == "CALL_FUNCTION_EX"
    return CallSite(False, path, name, tuple(_paths(between)), spreads)


def _site_of_loop(code: CodeType, before: list[dis.Instruction]) -> CallSite:
    """Return the call site of the implicit `__next__` in a loop over a variable or over the result of a call."""
    while before and before[-1].opname in _BEGINS_LOOP:
        before.pop()
    if before and before[-1].opname in CALLS:
        _, attributes = _path(_split(code, before)[0])
        return CallSite(False, (), attributes[-1] if attributes else "")
    path, _ = _path(before)
    return CallSite(False, (*path, "__next__") if path else ())


def _split(code: CodeType, instructions: list[dis.Instruction]) -> tuple[list[dis.Instruction], list[dis.Instruction]]:
    """Split the instructions before a call into those that load the callable and those that load the arguments.

    The call is the last instruction in `instructions`. The arguments begin where the callable is on top of the stack.
    If an argument is a conditional expression, the callable is also on top of the stack where a branch of this
    expression begins. A jump to an instruction, or past it, shows that the instruction begins a branch.
    """
    call = first = len(instructions) - 1
    while first and instructions[first - 1].opname in _PARTS_OF_CALL:
        first -= 1
    known = heights(code)
    end = instructions[first].offset
    height = known.get(end, 0) - _values_on_top(instructions[call])
    index: int | None = first
    while index and known.get(instructions[index].offset, -1) >= height:
        begin = instructions[index].offset
        if known[begin] == height and not _is_branch(instructions, index, end):
            return instructions[:index], instructions[index:first]
        index = _previous(instructions, index)
    return [], []


def _is_branch(instructions: list[dis.Instruction], index: int, end: int) -> bool:
    """Return whether an instruction runs only under a condition, within the expression that ends at `end`."""
    begin, previous = instructions[index].offset, instructions[index - 1]
    if previous.opcode in JUMPS or previous.opname == "POP_TOP":
        return True
    return any(each.opcode in JUMPS and each.offset < begin <= each.argval <= end for each in instructions[:index])


def _previous(instructions: list[dis.Instruction], index: int) -> int | None:
    """Return the index of an instruction that may be executed just before the one at `index`; None if unknown."""
    if instructions[index - 1].opname not in GOES_ELSEWHERE:
        return index - 1
    offset = instructions[index].offset
    leads_here = (each.opcode in JUMPS and each.argval == offset for each in instructions[:index])
    return next((number for number, leads in enumerate(leads_here) if leads), None)


def _values_on_top(call: dis.Instruction) -> int:
    """Return the number of values on the stack above the callable."""
    if call.opname == "CALL_FUNCTION_EX":
        # The call consumes one value in place of two, the callable and its object, and all values above these two.
        return -dis.stack_effect(call.opcode, call.arg) - 1
    return (call.arg or 0) + (call.opname in _ARGUMENTS_AND_NAMES)


def _path(before: list[dis.Instruction]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the path that the last instructions in `before` load, and the attributes of this path.

    A path is a variable and attributes; the path is empty if the attributes do not belong to a variable.
    """
    attributes: list[str] = []
    for index in range(len(before) - 1, -1, -1):
        instruction = before[index]
        if instruction.opname in _BETWEEN:
            continue
        if instruction.opname in _ATTRIBUTES:
            attributes.insert(0, str(instruction.argval))
            continue
        variable = _variable_or_super(instruction, before[:index])
        if instruction.opname == "LOAD_SUPER_ATTR":
            attributes.insert(0, str(instruction.argval))
        return ((variable, *attributes) if variable else ()), tuple(attributes)
    return (), tuple(attributes)


def _variable_or_super(instruction: dis.Instruction, before: list[dis.Instruction]) -> str:
    if names := _variables(instruction):
        return names[-1]
    if instruction.opname == "LOAD_SUPER_ATTR":
        return "" if (instruction.arg or 0) & _SUPER_WITH_ARGUMENTS else _SUPER
    # Up to Python 3.11, `super()` is an ordinary call.
    is_bare_call = instruction.opname in CALLS and instruction.arg == 0
    called = [each for each in before if each.opname not in _PARTS_OF_CALL]
    return _SUPER if is_bare_call and called and called[-1].argval == "super" else ""


def _variables(instruction: dis.Instruction) -> tuple[str, ...]:
    """Return the names of the variables that an instruction loads; some instructions load two variables."""
    loads = instruction.opname in _VARIABLES or instruction.opname.startswith("LOAD_FAST")
    if not loads and instruction.opname != "STORE_FAST_LOAD_FAST":
        return ()
    names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
    return tuple(str(name) for name in names)


def _paths(instructions: list[dis.Instruction]) -> list[tuple[str, ...]]:
    """Return a path for each loaded variable: its name, followed by the attributes that are then looked up."""
    paths: list[tuple[str, ...]] = []
    attribute_of_last = False
    for instruction in instructions:
        names = _variables(instruction)
        if attribute_of_last and instruction.opname in _ATTRIBUTES:
            paths[-1] = (*paths[-1], str(instruction.argval))
        else:
            attribute_of_last = bool(names)
            paths.extend((name,) for name in names)
    return paths


def callee(frame: FrameType) -> tuple[Any, Any]:
    """Return the callable that a frame is calling, and the object of a called method; each value is None if unknown.

    The look-up runs no application code, so properties and other computed attributes are not evaluated.
    """
    value, owner = _look_up(frame, call_site(frame.f_code, frame.f_lasti).path)
    if type(value) is partial:
        value = value.func
    if type(value) in (BuiltinFunctionType, MethodWrapperType):
        # The callable is already bound, so get the object from its `__self__`.
        owner = value.__self__
    return value, owner


def arguments(frame: FrameType) -> Iterator[Any]:
    """Yield the values that are loaded for the arguments of a frame's call; an unknown value is None."""
    for path in call_site(frame.f_code, frame.f_lasti).arguments:
        yield _look_up(frame, path)[0]


def path_before(code: CodeType, offset: int) -> tuple[str, ...]:
    """Return the path of the object that the instructions before an offset load; empty if the path is unknown."""
    return _path([each for each in instructions_of(code) if each.offset < offset])[0]


def value_at(frame: FrameType, path: tuple[str, ...]) -> Any:
    """Return the value of a variable with attributes; None if it is unknown."""
    return _look_up(frame, path)[0]


def _look_up(frame: FrameType, path: tuple[str, ...]) -> tuple[Any, Any]:
    if not path:
        return None, None
    if path[0] == _SUPER:
        owner = first_argument(frame)
        value, path = _of_base_class(owner, variables(frame).get("__class__"), path[1]), path[1:]
    else:
        owner, value = None, _variable(frame, path[0])
    for name in path[1:]:
        owner, value = value, _attribute(value, name)
        if value is None:
            return None, owner
    return value, owner


def first_argument(frame: FrameType) -> Any:
    """Return the first positional argument of a frame's function, such as `self`; None if there is none."""
    code = frame.f_code
    if code.co_argcount:
        return variables(frame).get(code.co_varnames[0])
    if code.co_flags & inspect.CO_VARARGS:
        values = variables(frame).get(code.co_varnames[code.co_kwonlyargcount], ())
        return values[0] if isinstance(values, tuple) and values else None
    return None


def _of_base_class(owner: Any, cls: Any, name: str) -> Any:
    """Return the attribute `name` that `super()` finds when it is called in a method of `cls`."""
    order = type.mro(owner if is_a(owner, type) else type(owner))
    index = next((number for number, each in enumerate(order) if each is cls), len(order))
    bases = order[index + 1 :]
    value = next((vars(base)[name] for base in bases if name in vars(base)), None)
    return _function(value)


def _variable(frame: FrameType, name: str) -> Any:
    # Read the variables only if necessary: reading takes time for each of them, and updates the result of `locals()`.
    own = variables(frame) if has_variable(frame.f_code, name) else {}
    for scope in (own, frame.f_globals, frame.f_builtins):
        if name in scope:
            return scope[name]
    return None


def _attribute(owner: Any, name: str) -> Any:
    return None if type(owner) is BuiltinFunctionType else _function(getattr_static(owner, name, None))


def _function(value: Any) -> Any:
    return value.__func__ if type(value) in (staticmethod, classmethod) else value


def is_a(value: Any, types: type | tuple[type, ...]) -> bool:
    """Return whether a value is an instance of a type, without reading the value's `__class__`.

    `isinstance` reads `__class__`, which may run application code if the value is a proxy, such as a lazy object of
    Django.
    """
    return issubclass(type(value), types)
