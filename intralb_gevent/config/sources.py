"""Read each setting from the first source that sets it: a flag, an environment variable, a file, or the default.

This module also lists the settings in effect, and generates docs/reference/settings.md.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from itertools import groupby
from typing import Any

from ..errors import OptionError
from .fields import Declaration
from .logs import LogOptions, log_declarations
from .options import Options, declarations
from .processes import ProcessOptions, process_declarations
from .route import route_declarations
from .serving import ServingOptions, serving_declarations
from .textfile import text_of

__all__ = [
    "Given",
    "Settings",
    "all_declarations",
    "document",
    "flag",
    "in_file",
    "load",
    "load_logs",
    "load_processes",
    "load_serving",
    "meaning",
    "toml",
    "unknown_variables",
    "variable",
]

_PREFIX = "INTRALB_"
_NOT_SETTINGS = ("INTRALB_ADMIN_TOKEN", "INTRALB_DEMO_", "INTRALB_CONFIG")
_STAND_INS = {
    "min_workers": "first_workers",
    "request_timeout_seconds": "deadline_seconds",
    "stream_idle_timeout_seconds": "stream_idle_seconds",
}
"""Fields whose default is derived, each with the property of `Options` that returns the value in effect."""

_WIDEST = 60
"""Maximum column at which the comments with the values' sources begin; after a longer line, a comment begins later."""


def all_declarations() -> tuple[Declaration, ...]:
    """Return the declarations of all settings: of the program, its log, a balancer and the processes, by group."""
    every = (*serving_declarations(), *declarations(), *log_declarations(), *process_declarations())
    groups = list(dict.fromkeys(declaration.group for declaration in every))
    return tuple(sorted(every, key=lambda declaration: groups.index(declaration.group)))


def flag(name: str, value: object = None) -> str:
    """Return the field's command-line flag; for a switch, `value` False selects the flag that turns the switch off.

    The application has no flag: it is a positional argument.
    """
    if name == "application":
        return "MODULE:APP"
    return ("--no-" if value is False else "--") + name.replace("_", "-")


def variable(name: str) -> str:
    """Return the field's environment variable."""
    return _PREFIX + name.upper()


@dataclass(frozen=True)
class Given:
    """The value given for one field, and its source."""

    value: Any
    source: str
    typed: bool
    """True if the source is a TOML file, which has native types; False if the source contains only text."""

    def read(self, declaration: Declaration) -> Any:
        """Return the field's value; if the value is invalid, raise an OptionError whose message names the source."""
        try:
            if isinstance(self.value, str) and (declaration.kind.textual or not self.typed):
                return declaration.kind.read(declaration.name, self.value)
            return declaration.check(self.value)
        except OptionError as error:
            remedy = "; write it without quotes" if self._is_quoted(declaration) else ""
            raise OptionError(f"{error} (from {self.source}){remedy}") from None

    def _is_quoted(self, declaration: Declaration) -> bool:
        """Return whether the quotes around a value in a settings file are unnecessary."""
        try:
            return self.typed and isinstance(self.value, str) and declaration.kind.read("", self.value) is not None
        except OptionError:
            return False


@dataclass(frozen=True)
class Settings:
    """The options in effect, and, for each field that was set, the value as given and its source."""

    options: Options
    given: Mapping[str, Given]
    processes: ProcessOptions = field(default_factory=ProcessOptions)
    serving: ServingOptions = field(default_factory=ServingOptions)
    logs: LogOptions = field(default_factory=LogOptions)

    def source(self, name: str) -> str:
        """Return the source of the field's value."""
        return self.given[name].source if name in self.given else "default"

    def value(self, name: str) -> Any:
        """Return the value of a field, in its stored form."""
        owners = (self.options, self.processes, self.serving, self.logs)
        return getattr(next(owner for owner in owners if hasattr(owner, name)), name)

    def show(self) -> str:
        """Return every value in effect, with its source in a comment, as the text of a valid settings file."""
        lines = [(self._line(declaration), self.source(declaration.name)) for declaration in all_declarations()]
        width = min(_WIDEST, max(len(line) for line, _ in lines))
        return "\n".join(f"{line:{width}}  # {source}" for line, source in lines)

    def _line(self, declaration: Declaration) -> str:
        name = declaration.name
        value = self.value(name)
        if value is None and name in _STAND_INS:
            value = getattr(self.options, _STAND_INS[name])
        if callable(value):
            value = self.given[name].value
        written = declaration.kind.write(value)
        return f"# {name} is not set" if written is None else f"{name} = {toml(written)}"


def load(
    flags: Mapping[str, str | bool],
    environ: Mapping[str, str],
    file: str | Mapping[str, Given] | None = None,
    defaults: Mapping[str, str | bool | Given] | None = None,
) -> Settings:
    """Return the settings in effect; if several sources set a field, only the value that takes precedence is checked.

    `flags` and `defaults` map fields to text or booleans; `defaults` belong to a command, and have the lowest
    precedence. A default that is a `Given` states its own source. `environ` is searched for INTRALB_ variables and
    PORT; an empty variable is treated as unset. `file` is the path of a TOML file, or the return value of `in_file`.
    Raises `OptionError`, which names the field, the value, what is allowed and the source.
    """
    given = {
        **{name: _by_default(value) for name, value in (defaults or {}).items()},
        **_given(flags, environ, file),
    }
    return Settings(
        Options(**_read(given, declarations())),
        given,
        ProcessOptions(**_read(given, process_declarations())),
        ServingOptions(**_read(given, serving_declarations())),
        LogOptions(**_read(given, log_declarations())),
    )


def load_processes(
    flags: Mapping[str, str | bool], environ: Mapping[str, str], file: str | Mapping[str, Given] | None = None
) -> ProcessOptions:
    """Return only the settings of the processes, without importing the modules that other settings name.

    The arguments have the same meaning as the arguments of `load`, and the errors are the same.
    """
    return ProcessOptions(**_read(_given(flags, environ, file), process_declarations()))


def load_serving(
    flags: Mapping[str, str | bool], environ: Mapping[str, str], file: str | Mapping[str, Given] | None = None
) -> ServingOptions:
    """Return only the settings of the program; arguments and errors are those of `load_processes`."""
    return ServingOptions(**_read(_given(flags, environ, file), serving_declarations()))


def load_logs(
    flags: Mapping[str, str | bool], environ: Mapping[str, str], file: str | Mapping[str, Given] | None = None
) -> tuple[LogOptions, str]:
    """Return only the log settings and `log_format`; arguments and errors are those of `load_processes`."""
    given = _given(flags, environ, file)
    declared = next(declaration for declaration in declarations() if declaration.name == "log_format")
    log_format = _read(given, [declared]).get("log_format", declared.default)
    return LogOptions(**_read(given, log_declarations())), log_format


def _given(
    flags: Mapping[str, str | bool], environ: Mapping[str, str], file: str | Mapping[str, Given] | None
) -> dict[str, Given]:
    return {
        **_by_platform(environ),
        **(in_file(file) if isinstance(file, str) else file or {}),
        **_in_environment(environ),
        **{name: Given(value, flag(name, value), typed=False) for name, value in flags.items()},
    }


def _by_platform(environ: Mapping[str, str]) -> dict[str, Given]:
    """Return the address that platforms such as Heroku and Cloud Run pass in PORT."""
    port = environ.get("PORT", "")
    return {"bind": Given(f":{port}", "PORT", typed=False)} if port else {}


def _read(given: Mapping[str, Given], declared: Iterable[Declaration]) -> dict[str, Any]:
    return {d.name: given[d.name].read(d) for d in declared if d.name in given}


def _by_default(value: str | bool | Given) -> Given:
    return value if isinstance(value, Given) else Given(value, "default of this command", typed=False)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a warning for each INTRALB_ variable that is not a setting.

    An unknown variable is not an error, unlike an unknown key of a file, because a platform may set variables with this
    prefix. For example, Kubernetes sets variables for a service named `intralb`.
    """
    ours = [name for name in sorted(environ) if name.startswith(_PREFIX) and not name.startswith(_NOT_SETTINGS)]
    fields = {name: name.removeprefix(_PREFIX).lower() for name in ours}
    return [
        f"{name} is not a setting and has no effect{_did_you_mean(field, variable)}"
        for name, field in fields.items()
        if field not in _names()
    ]


def _names() -> list[str]:
    return [declaration.name for declaration in all_declarations()]


def _did_you_mean(name: str, written: Callable[[str], str] = str) -> str:
    close = difflib.get_close_matches(name, _names(), n=1)
    return f"; did you mean {written(close[0])}?" if close else ""


def _in_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    found = {name: environ.get(variable(name)) for name in _names()}
    return {name: Given(text, variable(name), typed=False) for name, text in found.items() if text}


def in_file(path: str) -> dict[str, Given]:
    """Return the settings in a TOML file; raises `OptionError` if the file is not valid."""
    table = _parsed(path)
    for key, value in table.items():
        if isinstance(value, dict) and key not in _names():
            raise OptionError(f"{path}: [{key}] is a table; write the settings at the top level")
        if key not in _names():
            raise OptionError(f"{path}: {key!r} is not a setting{_did_you_mean(key)}")
    return {key: Given(value, path, typed=True) for key, value in table.items()}


def _parsed(path: str) -> dict[str, Any]:
    text = ""
    try:
        text = text_of(path)
        return tomllib.loads(text)
    except OSError as error:
        raise OptionError(f"cannot read the settings file {path!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is not a TOML file: {error}") from None
    except RecursionError:
        raise OptionError(f"{path} is not a settings file: its values are nested too deeply") from None
    except ValueError:
        # Python converts at most 4,300 digits to a number.
        raise OptionError(f"{path}: the number in line {_line_of_longest_number(text)} is too long") from None


def _line_of_longest_number(text: str) -> int:
    lengths = [max(map(len, re.findall(r"[0-9_]+", line)), default=0) for line in text.split("\n")]
    return lengths.index(max(lengths)) + 1


def toml(value: Any) -> str:
    """Return the text of a value in the syntax of TOML."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {toml(entry)}' for key, entry in value.items())} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    # A JSON string is also a valid TOML string, unless the string contains surrogates.
    return json.dumps(value, ensure_ascii=False)


def meaning(declaration: Declaration) -> tuple[str, str]:
    """Return a description of the setting, and a description of its default."""
    help, _, derived = declaration.help.partition(" Default: ")
    return help, derived.removesuffix(".") or _in_words(declaration.default)


def _in_words(default: Any) -> str:
    if default is None:
        return "none"
    if default is MISSING:
        return "must be given"
    if isinstance(default, bool):
        return toml(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def document() -> str:
    """Return the text of docs/reference/settings.md."""
    tables = groupby(all_declarations(), key=lambda declaration: declaration.group)
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
A route contains settings for certain paths. The first route that matches a request's path applies. If the route does
not set a setting, the general value applies.

```toml
[[routes]]
path = "/reports/*"
request_timeout_seconds = 120

[[routes]]
path = "/export.csv"
stream_timeout_seconds = 600
```

As text: `--routes "/reports/* request_timeout_seconds=120; /export.csv stream_timeout_seconds=600"`. The flag may be
given several times. A path with a space or a semicolon can only be written in the file. In a program:
`Options(routes=[Route("/reports/*", request_timeout_seconds=120)])`.

`/reports/*` matches every path that begins with `/reports/`, but not `/reports` itself. The compared path is the
`PATH_INFO` that the application receives: it is decoded, and excludes `SCRIPT_NAME`.

| Setting of a route | Value | Default | Meaning |
|---|---|---|---|
"""

_INTRODUCTION = """\
# Settings

Every setting has four sources. If several sources set a setting, the source that comes first in this list wins:

1. a flag, as in `intralb-gevent serve myapp:app --queue-size 50`
2. an environment variable, such as `INTRALB_QUEUE_SIZE=50` (an empty variable is treated as unset)
3. a line of a TOML file, such as `queue_size = 50`; the file is the one that `--config` or `INTRALB_CONFIG` names, or
   otherwise `intralb.toml` in the current directory
4. the default

A program that creates a balancer itself passes the settings to the constructor, as in `Options(queue_size=50)`; no
other source is read.

- Seconds may have a fraction. A switch is `true` or `false`. Each switch has two flags, such as `--enable-logging` and
  `--no-enable-logging`. An environment variable can also set a switch with `yes`, `on`, `1`, `no`, `off` or `0`.
- A callable is written `MODULE:NAME`, for example `--db-init-func myapp.db:connect`. The module may be in the current
  directory.
- In a file, the settings are at the top level, and not in a table; only routes are tables. An unknown key is an error.
- An unknown variable that begins with `INTRALB_` only causes a warning, because some platforms set such variables.
- An invalid value is an error, with exit code 2. The error message names the setting, the value, the allowed
  values, and the source.
- `intralb-gevent serve --show-config` prints every value in effect and its source, as a settings file.

The command `python -m intralb_gevent.config.sources > docs/reference/settings.md` generates this page from the
declarations of the settings.
"""


if __name__ == "__main__":
    print(document(), end="")
