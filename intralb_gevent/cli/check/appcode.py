"""Inspect the application's own functions, and the names that they refer to, without running any function.

The standard library and installed packages are left out. References are read from a function's bytecode; a nested
function is treated as part of the outer function.
"""

from __future__ import annotations

import dis
import gc
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

__all__ = ["AppFunction", "functions_that"]

_LIBRARIES = tuple({sysconfig.get_paths()[place] for place in ("stdlib", "platstdlib", "purelib", "platlib")})
_PACKAGES = {"site-packages", "dist-packages"}
"""Names of directories with installed packages, including the packages of other interpreters."""

_OURS = __name__.partition(".")[0]


class AppFunction:
    """A function of the application."""

    def __init__(self, function: FunctionType) -> None:
        self._globals = function.__globals__
        self.codes = list(_nested(function.__code__))
        """Code objects of the function and of all nested functions."""
        self.name = f"{self._globals['__name__']}.{function.__qualname__}"

    def __repr__(self) -> str:
        return f"<AppFunction {self.name}>"

    @property
    def names(self) -> set[str]:
        """All global names and attributes that the function refers to."""
        return {name for code in self.codes for name in code.co_names}

    @property
    def globals(self) -> list[Any]:
        """The objects that the function's global names refer to."""
        instructions = (instruction for code in self.codes for instruction in dis.get_instructions(code))
        names = {each.argval for each in instructions if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        return [self._globals[name] for name in names if name in self._globals]

    def refers_to(self, module: str, attribute: str) -> bool:
        """Return True if the function refers to `module.attribute`, or to the same object by a global name."""
        if any(_has_attribute(code, module, attribute) for code in self.codes):
            return True
        wanted = getattr(sys.modules.get(module), attribute, None)
        return wanted is not None and any(found is wanted for found in self.globals)


def functions_that(condition: Callable[[AppFunction], bool]) -> list[str]:
    """Return the names of the application's functions that meet a condition.

    Functions that are nested in a listed function are left out.
    """
    modules = {id(vars(module)) for name, module in list(sys.modules.items()) if _is_of_application(name, module)}
    functions = [found for found in gc.get_objects() if type(found) is FunctionType]
    own = [AppFunction(function) for function in functions if id(function.__globals__) in modules]
    found: dict[str, None] = {}
    seen: set[CodeType] = set()
    for function in sorted(own, key=lambda function: (-len(function.codes), function.name)):
        if seen.isdisjoint(function.codes) and condition(function):
            seen.update(function.codes)
            found[function.name] = None
    return sorted(found)


def _is_of_application(name: str, module: Any) -> bool:
    if not isinstance(module, ModuleType) or name.partition(".")[0] in (_OURS, "__main__"):
        return False
    file = vars(module).get("__file__")
    return isinstance(file, str) and not file.startswith(_LIBRARIES) and _PACKAGES.isdisjoint(Path(file).parts)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _has_attribute(code: CodeType, owner: str, attribute: str) -> bool:
    """Return True if the code contains a lookup of `attribute` directly after a load of the name `owner`."""
    loaded: object = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and (loaded, instruction.argval) == (owner, attribute):
            return True
        # Python 3.13 and later combine two loads in one instruction, which has two names.
        names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
        loaded = names[-1] if "LOAD_" in instruction.opname and names else None
    return False
