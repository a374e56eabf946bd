"""Tests that a module imports only from its own layer of the package or a lower one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import intralb_gevent

ROOT = Path(intralb_gevent.__file__).parent
LAYERS = {
    "errors": 0,
    "_mypyc": 0,
    "stdlib": 0,
    "priority": 0,
    "naming": 0,
    "quoting": 0,
    "sessionsource": 0,
    "config": 0,
    "framevariables": 0,
    "policy": 1,
    "observe": 6,
    "observe.history": 1,
    "observe.refusals": 1,
    "observe.stats": 1,
    "observe.snapshot": 1,
    "observe.moves": 1,
    "integrations": 7,
    "integrations.geventwebsocket": 1,
    "integrations.opentelemetry": 1,
    "logformats": 2,
    "supervise": 2,
    "process": 2,
    "process.interrupts": 4,
    "process.signals": 4,
    "process.strays": 4,
    "hub": 3,
    "siblings": 3,
    "aborts": 4,
    "pool": 5,
    "http": 6,
    "demo": 7,
    "cli": 8,
    "gunicorn": 8,
    "django": 8,
    "flask": 8,
    "replacing": 8,
    "__main__": 8,
    "__init__": 8,
}
PURE = {"gevent", "greenlet", "time", "random", "socket", "threading", "os"}
MODULES = sorted(ROOT.rglob("*.py"))


def dotted(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1])


def layer(name: str) -> int:
    known = [key for key in LAYERS if name == key or name.startswith(key + ".")]
    assert known, f"intralb_gevent/{name} belongs to no layer: give it one in DESIGN and here"
    return LAYERS[max(known, key=len)]


def imports(file: Path) -> Iterator[str]:
    """Yield the absolute dotted name of every module that `file` imports at run time."""
    package = ["intralb_gevent", *file.relative_to(ROOT).parts[:-1]]
    tree = ast.parse(file.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module in ("intralb_gevent", ".".join(package)) and node.level:
                yield from (f"{module}.{alias.name}" for alias in node.names)
            else:
                yield module


@pytest.mark.parametrize("file", MODULES, ids=dotted)
def test_imports_point_to_a_lower_layer(file: Path) -> None:
    mine = layer(dotted(file))
    for target in imports(file):
        if target.startswith("intralb_gevent."):
            name = target.removeprefix("intralb_gevent.")
            if (ROOT / name.replace(".", "/")).exists() or (ROOT / (name.replace(".", "/") + ".py")).exists():
                assert layer(name) <= mine, f"{dotted(file)} must not know {name}"


@pytest.mark.parametrize("file", sorted((ROOT / "policy").glob("*.py")), ids=dotted)
def test_policies_know_no_gevent_clock_or_input(file: Path) -> None:
    assert not PURE & {target.split(".")[0] for target in imports(file)}


@pytest.mark.parametrize("file", sorted((ROOT / "supervise").glob("*.py")), ids=dotted)
def test_the_supervisor_knows_no_gevent(file: Path) -> None:
    assert not {"gevent", "greenlet"} & {target.split(".")[0] for target in imports(file)}


@pytest.mark.parametrize("file", [f for f in MODULES if "demo" not in f.parts or f.name == "__init__.py"], ids=dotted)
def test_every_module_opens_with_what_it_is_for(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text()))
