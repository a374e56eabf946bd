"""Where settings come from: a flag, else an environment variable, else a file, else the default.

Decides how a setting is written in each of these places, which of them counts, and how the outcome is shown.
It must not know what a setting does, nor how the command line around the flags looks.
"""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass
from itertools import groupby
from typing import Any

from .errors import OptionError
from .options import Declaration, Options, declarations
from .route import route_declarations

__all__ = ["Settings", "document", "flag", "load", "meaning", "unknown_variables", "variable"]

_PREFIX = "INTRALB_"
_NOT_SETTINGS = ("INTRALB_DEMO_",)
_STAND_INS = {
    "min_workers": "first_workers",
    "request_timeout_seconds": "deadline_seconds",
    "stream_idle_timeout_seconds": "stream_idle_seconds",
}
"""Fields whose default is derived, and the property of `Options` that tells the value in effect."""

_WIDEST = 60
"""Characters after which the sources of shown values stand, though some lines are longer."""


def flag(name: str, value: object = None) -> str:
    """Return how the field is written on the command line; a switch has another flag for False."""
    return ("--no-" if value is False else "--") + name.replace("_", "-")


def variable(name: str) -> str:
    """Return how the field is written in the environment."""
    return _PREFIX + name.upper()


@dataclass(frozen=True)
class Given:
    """What was written for one field, and where."""

    value: Any
    source: str
    typed: bool
    """Whether the place has types of its own, as a TOML file has; elsewhere all is text."""

    def read(self, declaration: Declaration) -> Any:
        """Return the value for the field, or raise OptionError, which then says where it came from."""
        try:
            if isinstance(self.value, str) and (declaration.kind.textual or not self.typed):
                return declaration.kind.read(declaration.name, self.value)
            return declaration.check(self.value)
        except OptionError as error:
            raise OptionError(f"{error} (from {self.source})") from None


@dataclass(frozen=True)
class Settings:
    """The options in effect, and for each field that is not left at its default what was given and where."""

    options: Options
    given: Mapping[str, Given]

    def source(self, name: str) -> str:
        """Return where the value of the field came from."""
        return self.given[name].source if name in self.given else "default"

    def show(self) -> str:
        """Return every value in effect and its source, as lines that are themselves a settings file."""
        lines = [(self._line(declaration), self.source(declaration.name)) for declaration in declarations()]
        width = min(_WIDEST, max(len(line) for line, _ in lines))
        return "\n".join(f"{line:{width}}  # {source}" for line, source in lines)

    def _line(self, declaration: Declaration) -> str:
        name = declaration.name
        value = getattr(self.options, name)
        if value is None and name in _STAND_INS:
            value = getattr(self.options, _STAND_INS[name])
        if callable(value):
            value = self.given[name].value
        written = declaration.kind.write(value)
        return f"# {name} is not set" if written is None else f"{name} = {_toml(written)}"


def load(
    flags: Mapping[str, str | bool],
    environ: Mapping[str, str],
    file: str | None = None,
    defaults: Mapping[str, str | bool] | None = None,
) -> Settings:
    """Return the settings in effect; only the value that counts for a field is looked at.

    `flags` and `defaults` (a command's own, below all else) are keyed by field and hold text or booleans.
    `environ` is searched for INTRALB_ variables, where an empty one counts as not set. `file` is the path
    of a TOML file. Raises `OptionError`, naming the field, the value, what is allowed and the source.
    """
    given = {
        **{name: Given(value, "default of this command", typed=False) for name, value in (defaults or {}).items()},
        **(_in_file(file) if file is not None else {}),
        **_in_environment(environ),
        **{name: Given(value, flag(name, value), typed=False) for name, value in flags.items()},
    }
    values = {d.name: given[d.name].read(d) for d in declarations() if d.name in given}
    return Settings(Options(**values), given)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a line for each INTRALB_ variable that is no setting.

    Unlike a key of a file these are not refused: a platform may set some by itself, as Kubernetes does for
    a service named `intralb`.
    """
    ours = [name for name in sorted(environ) if name.startswith(_PREFIX) and not name.startswith(_NOT_SETTINGS)]
    fields = {name: name.removeprefix(_PREFIX).lower() for name in ours}
    return [
        f"{name} is not a setting and has no effect{_did_you_mean(field, variable)}"
        for name, field in fields.items()
        if field not in _names()
    ]


def _names() -> list[str]:
    return [declaration.name for declaration in declarations()]


def _did_you_mean(name: str, written: Callable[[str], str] = str) -> str:
    close = difflib.get_close_matches(name, _names(), n=1)
    return f"; did you mean {written(close[0])}?" if close else ""


def _in_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    found = {name: environ.get(variable(name)) for name in _names()}
    return {name: Given(text, variable(name), typed=False) for name, text in found.items() if text}


def _in_file(path: str) -> dict[str, Given]:
    table = _parsed(path)
    for key, value in table.items():
        if isinstance(value, dict) and key not in _names():
            raise OptionError(f"{path}: [{key}] is a table; write the settings at the top level")
        if key not in _names():
            raise OptionError(f"{path}: {key!r} is not a setting{_did_you_mean(key)}")
    return {key: Given(value, path, typed=True) for key, value in table.items()}


def _parsed(path: str) -> dict[str, Any]:
    parser = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        with open(path, "rb") as file:
            return dict(parser.load(file))
    except OSError as error:
        raise OptionError(f"cannot read the settings file {path!r}: {error.strerror}") from None
    except ValueError as error:
        raise OptionError(f"{path} is not a TOML file: {error}") from None


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(entry)}' for key, entry in value.items())} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    # A string of JSON is one of TOML too, as long as it has no surrogates.
    return json.dumps(value, ensure_ascii=False)


def meaning(declaration: Declaration) -> tuple[str, str]:
    """Return what the setting means and what its default is, both in words."""
    help, _, derived = declaration.help.partition(" Default: ")
    return help, derived.removesuffix(".") or _in_words(declaration.default)


def _in_words(default: Any) -> str:
    if default is None:
        return "none"
    if default is MISSING:
        return "must be given"
    if isinstance(default, bool):
        return _toml(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def document() -> str:
    """Return the text of docs/settings.md."""
    tables = groupby(declarations(), key=lambda declaration: declaration.group)
    sections = {title: _table(title, members) for title, members in tables}
    sections["Routes"] += _ROUTES + "".join(map(_route_row, route_declarations()))
    return _INTRODUCTION + "".join(sections.values())


def _table(title: str, members: Iterable[Declaration]) -> str:
    return f"\n## {title}\n{_HEADING}" + "".join(_row(declaration) for declaration in members)


def _row(declaration: Declaration) -> str:
    name = declaration.name
    help, default = meaning(declaration)
    cells = (f"`{name}`", f"`{flag(name)}`", f"`{variable(name)}`", declaration.kind.allowed, default, help)
    return f"| {' | '.join(cells)} |\n"


def _route_row(declaration: Declaration) -> str:
    help, default = meaning(declaration)
    return f"| `{declaration.name}` | {declaration.kind.allowed} | {default} | {help} |\n"


_HEADING = """
| Setting and key | Flag | Variable | Value | Default | Meaning |
|---|---|---|---|---|---|
"""

_ROUTES = """
A route gives some paths settings of their own. The first route that matches counts, and what it does not set is as
elsewhere.

```toml
[[routes]]
path = "/reports/*"
request_timeout_seconds = 120

[[routes]]
path = "/export.csv"
stream_timeout_seconds = 600
```

As text: `--routes "/reports/* request_timeout_seconds=120; /export.csv stream_timeout_seconds=600"`. The flag may be
given several times. A path with a space or a semicolon can be written in the file only. In a program:
`Options(routes=[Route("/reports/*", request_timeout_seconds=120)])`.

`/reports/*` is every path that begins with `/reports/`, and so not `/reports` itself. A path is compared as the
application gets it in `PATH_INFO`: decoded, and below `SCRIPT_NAME`.

| Setting of a route | Value | Default | Meaning |
|---|---|---|---|
"""

_INTRODUCTION = """\
# Settings

Every setting can be given in four places. Where several give it, the first of them counts:

1. a flag: `intralb-gevent serve myapp:app --queue-size 50`
2. an environment variable: `INTRALB_QUEUE_SIZE=50` (an empty one counts as not set)
3. a TOML file, named with `--config intralb.toml`: `queue_size = 50`
4. the default

A program that makes its own balancer gives them to the constructor, and nothing else is read:
`Options(queue_size=50)`.

- Seconds may have a fraction. A switch is `true` or `false`; its flags are `--enable-logging` and
  `--no-enable-logging`; a variable may also say `yes`, `on`, `1`, `no`, `off` or `0`.
- A callable is written `MODULE:NAME`, for example `--db-init-func myapp.db:connect`. Its module is looked for
  in the current directory too.
- The file holds the settings at its top level, without a table (but routes are tables). A key that is no setting is
  refused.
- A variable that begins with `INTRALB_` and is no setting is only warned of, for some platforms set such by
  themselves.
- A wrong value is refused: the message names the field, the value, what is allowed and where it came from.
  The exit code is 2.
- `intralb-gevent serve --show-config` prints every value in effect and its source, as a settings file.

This page is generated from the declarations: `python -m intralb_gevent.settings > docs/settings.md`.
"""


if __name__ == "__main__":
    print(document(), end="")
