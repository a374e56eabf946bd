"""Find the application of a project without importing it, by the names that Flask and Django projects use.

The supervisor must not import the application, but its start line names the application. Therefore, this module parses
the project's source, to find the name that is most probably the application.
"""

from __future__ import annotations

import ast
import glob
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import LoadError

__all__ = ["Found", "find_application"]

_NAMES: Final = ("app", "application")
_FACTORIES: Final = ("create_app", "make_app")
_KINDS: Final = ("Flask", "Bottle", "Pyramid")
"""Classes of WSGI applications; if a module creates only one instance of these classes, the instance may have any
name."""


@dataclass(frozen=True)
class Found:
    """A reference to an application, such as `shop:app`.

    `where` is the file or the variable in which the reference was found; '' if the user named the application in full.
    """

    reference: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.reference} (found in {self.where})" if self.where else self.reference


def find_application(named: str | None, environ: Mapping[str, str]) -> Found:
    """Return the named application or, if `named` is None, the application of the project in the current directory.

    If only a module is named (`shop`, `shop.py`), the module is searched for an application. Raises `LoadError` if the
    directory contains no application, or if several applications are possible.
    """
    if named is not None:
        return _named(named)
    flask_app = environ.get("FLASK_APP")
    if flask_app:
        return Found(_as_flask_calls_it(_named(flask_app).reference), f"FLASK_APP={flask_app}")
    for file in ("wsgi.py", "app.py"):
        if os.path.isfile(file):
            return Found(_in_module(file.removesuffix(".py"), file), file)
    return _of_django()


def _named(text: str) -> Found:
    module, colon, name = text.partition(":")
    module = _module_name(module)
    file = _file_of(module)
    if not colon:
        return Found(_in_module(module, file), file) if file else Found(f"{module}:app")
    return Found(f"{module}:{name}")


def _as_flask_calls_it(reference: str) -> str:
    """Append `()` to a reference that names a factory, because Flask calls a factory that FLASK_APP names."""
    return f"{reference}()" if reference.partition(":")[2] in _FACTORIES else reference


def _module_name(text: str) -> str:
    """Convert the path of a module's file to the name of the module; return any other text unchanged."""
    if not text.endswith(".py") or not os.path.isfile(text):
        return text
    path = os.path.relpath(text)
    if path.startswith(os.pardir):
        raise LoadError(f"{text!r} is outside of this directory; give its directory with --chdir")
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _file_of(module: str) -> str:
    """Return the path of a module's file below the current directory; '' if there is no such file."""
    path = module.replace(".", "/")
    return next((file for file in (f"{path}.py", f"{path}/__init__.py") if os.path.isfile(file)), "")


def _of_django() -> Found:
    files = sorted(glob.glob("*/wsgi.py")) if os.path.isfile("manage.py") else []
    if len(files) == 1:
        module = files[0].removesuffix(".py").replace("/", ".")
        return Found(_in_module(module, files[0]), files[0])
    if files:
        raise LoadError(f"there are several applications here ({', '.join(files)}); name one, as MODULE:APP")
    raise LoadError(
        "there is no application here (no FLASK_APP, wsgi.py, app.py, or */wsgi.py beside manage.py); "
        "name it, as MODULE:APP"
    )


def _in_module(module: str, file: str) -> str:
    """Return the reference to the application in a module's file."""
    names = dict(_names_in(file))
    for name in _NAMES if not module.endswith("wsgi") else _NAMES[::-1]:
        if name in names:
            return f"{module}:{name}"
    instances = [name for name, kind in names.items() if kind in _KINDS]
    if len(instances) == 1:
        return f"{module}:{instances[0]}"
    for name in _FACTORIES:
        if names.get(name) == "function":
            return f"{module}:{name}()"
    if instances:
        raise LoadError(f"there are several applications in {file} ({', '.join(instances)}); name one, as MODULE:APP")
    # The module may set the name in a way that this search does not detect. If the module does not set the name,
    # `load_application` reports the error.
    return f"{module}:{_NAMES[0]}"


def _names_in(file: str) -> Iterator[tuple[str, str]]:
    """Yield the names that a module defines at its top level, each with its kind.

    The kind is "function" for a function, the class's name for a new instance, and '' for any other object.
    """
    try:
        with open(file, "rb") as source:
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError):
        return
    yield from _names_of(tree.body)


def _names_of(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            yield statement.name, "function" if isinstance(statement, ast.FunctionDef) else ""
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            for alias in statement.names:
                yield (alias.asname or alias.name).partition(".")[0], _imported(alias.name)
        elif isinstance(statement, ast.Assign):
            yield from ((name.id, _kind(statement.value)) for target in statement.targets for name in _targets(target))
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            yield from ((name.id, _kind(statement.value)) for name in _targets(statement.target))
        elif isinstance(statement, (ast.If, ast.Try, ast.With)):
            yield from _names_of(_inner(statement))


def _inner(statement: ast.If | ast.Try | ast.With) -> list[ast.stmt]:
    if isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test):
        # This block does not run when the module is imported.
        return statement.orelse
    return [*statement.body, *getattr(statement, "orelse", [])]


def _imported(name: str) -> str:
    return "function" if name in _FACTORIES else ""


def _targets(target: ast.expr) -> Iterator[ast.Name]:
    return (node for node in ast.walk(target) if isinstance(node, ast.Name))


def _kind(value: ast.expr) -> str:
    if not isinstance(value, ast.Call):
        return ""
    called = value.func
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
