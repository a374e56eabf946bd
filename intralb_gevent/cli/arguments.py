"""The arguments of the command line: the commands and their flags.

The flags for settings are generated from the settings' declarations. This module is also used in processes that are not
monkey-patched, so it imports gevent only for `--version`.
"""

from __future__ import annotations

import argparse
import difflib
import platform
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NoReturn

from .. import __version__
from .._mypyc import is_compiled
from ..config import sources
from ..config.fields import Declaration
from .completion import SHELLS
from .foreign import hint_for

__all__ = ["DEMO", "PROGRAM", "SHORT", "commands", "flags_of", "given_settings", "parse", "parser"]

PROGRAM: Final = "intralb-gevent"
DEMO: Final = "intralb_gevent.demo:application"

SHORT: Final = {"bind": "-b", "processes": "-w", "config": "-c"}
"""Settings with a short flag. The letters are those of gunicorn's short flags."""

_MATTER_MOST: Final = (
    *("bind", "processes", "request_timeout_seconds", "max_workers", "max_concurrent_per_router"),
    *("max_wait_seconds", "graceful_timeout_seconds", "admin_bind", "trusted_proxies", "reload"),
)
"""The settings that `--help` shows first."""

_EPILOG = """\
Every setting can also be an environment variable (INTRALB_QUEUE_SIZE for
--queue-size) or a key in a TOML file (queue_size). A flag overrides a
variable, and a variable overrides the file.

exit codes:
  0  success
  1  the server cannot listen; or a shutdown aborted requests, or work that the
     application did after them; or check has reported warnings
  2  wrong usage, an invalid value, or an application that cannot be loaded
  3  none of several processes could be started (--processes)
  70 the event loop was blocked for block_timeout_seconds
"""

_ABOUT_SERVE = """\
Serve an application. Without MODULE:APP, serve the application of this
directory: the application that FLASK_APP names, or the application in wsgi.py,
app.py, or */wsgi.py beside manage.py.

examples:
  intralb-gevent serve                             on http://127.0.0.1:8000
  intralb-gevent serve --reload                    restart when a file changes
  intralb-gevent serve shop:app -b :8000 -w auto   one process for each CPU
  intralb-gevent serve shop:create_app() -b unix:/run/shop.sock
  intralb-gevent serve --request-timeout-seconds 10 --show-config
"""

_ABOUT = """\
Serve a legacy WSGI application on gevent, balanced within one process.

examples:
  intralb-gevent serve                        the application of this directory
  intralb-gevent serve shop:app -b :8000      shop:app, on port 8000 of all addresses
  intralb-gevent check shop:app               the problems it will have under gevent
  intralb-gevent migrate gunicorn.conf.py     the equivalents of your settings
"""


_CHOICE: Final = re.compile(r"invalid choice: '(?P<given>[^']*)' \(choose from (?P<choices>.*)\)")


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the error, and exit with code 2."""
        wrong = _CHOICE.search(message)
        if wrong is not None:
            message += _other_choice(wrong["given"], wrong["choices"].replace("'", "").split(", "))
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def _other_choice(given: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, choices, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; did you mean 'serve {given}'?" if "serve" in choices and re.search(r":|\.py$", given) else ""


class _Version(argparse.Action):
    """The action of `--version`, which prints the versions."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> NoReturn:
        """Print the versions, and exit with code 0."""
        print(_versions())
        parser.exit()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a command; exit with code 2 if they are wrong."""
    parsed, unknown = parser().parse_known_args(arguments)
    if unknown:
        parsed.parser.error(_not_understood(unknown, arguments, list(flags_of(parsed.parser))))
    return parsed


def given_settings(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the values of the settings that were given as flags, by the names of the settings."""
    return {d.name: _given(parsed, d) for d in sources.all_declarations() if getattr(parsed, d.name, None) is not None}


def _given(parsed: argparse.Namespace, declaration: Declaration) -> Any:
    value = getattr(parsed, declaration.name)
    return declaration.kind.joined_by.join(value) if isinstance(value, list) else value


def commands() -> Mapping[str, argparse.ArgumentParser]:
    """Return the parsers of all commands, by the names of the commands."""
    action = next(each for each in parser()._actions if isinstance(each, argparse._SubParsersAction))
    return dict(action.choices)


def flags_of(command: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the argparse actions of a command, by the texts of the flags, such as `--bind`."""
    return {text: action for action in command._actions for text in action.option_strings}


def _not_understood(unknown: Sequence[str], arguments: Sequence[str], known: Sequence[str]) -> str:
    # The value of an unknown flag is also in `unknown`, as if the value were a second application. So if there are
    # unknown flags, report only the flags.
    wrong = [each for each in unknown if each.startswith("-")] or unknown[:1]

    def after(argument: str) -> Sequence[str]:
        return arguments[arguments.index(argument) + 1 :] if argument in arguments else []

    return "; ".join(f"{each!r} is not understood{hint_for(each, after(each), known)}" for each in wrong)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = _Parser(
        prog=PROGRAM,
        description=_ABOUT,
        epilog=f"'{PROGRAM} COMMAND --help' lists the flags of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    whole.add_argument("--version", action=_Version, nargs=0, help="show the versions and exit")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve = _serving(commands, "serve", "serve an application", _ABOUT_SERVE)
    demo = _serving(commands, "demo", "serve the bundled sample application, on SQLite")
    demo.set_defaults(application=DEMO, finds_settings=False)
    check = _serving(commands, "check", "import an application and report the problems it will have under gevent")
    for command in (serve, check):
        # This argument is optional, because `find_application` can search the current directory.
        command.add_argument("application", metavar="MODULE:APP", nargs="?", help="the WSGI callable to import")
    _other_commands(commands)
    return whole


def _other_commands(commands: Any) -> None:
    migrate = _command(commands, "migrate", "print the equivalents of gunicorn, uWSGI or uvicorn settings")
    about = "gunicorn.conf.py, a uwsgi.ini, or a command line that starts with gunicorn, uwsgi or uvicorn"
    migrate.add_argument("source", metavar="SOURCE", nargs=argparse.REMAINDER, help=about)
    top = _command(commands, "top", "show the status page of a running server in this terminal")
    top.set_defaults(finds_settings=True, config=None)
    top.add_argument("address", metavar="ADDRESS", nargs="?", help="the server's admin_bind [as in the settings file]")
    completion = _command(commands, "completion", "print a script that completes commands and flags in a shell")
    completion.add_argument("shell", choices=SHELLS, help=f"the shell: {', '.join(SHELLS)}")


def _versions() -> str:
    import gevent

    kind = "compiled" if is_compiled("pool.intake") else "not compiled"
    return f"{PROGRAM} {__version__} ({kind}, gevent {gevent.__version__}, Python {platform.python_version()})"


def _command(commands: Any, name: str, help: str, about: str = "", **more: Any) -> _Parser:
    parser: _Parser = commands.add_parser(
        name,
        help=help,
        description=about or f"{help[0].upper()}{help[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **more,
    )
    parser.set_defaults(command=name, parser=parser)
    return parser


def _serving(commands: Any, name: str, help: str, about: str = "") -> _Parser:
    application = " [MODULE:APP]" if name != "demo" else ""
    parser = _command(commands, name, help, about, usage=f"{PROGRAM} {name}{application} [FLAGS]", epilog=_EPILOG)
    parser.set_defaults(finds_settings=True, show_config=False)
    _settings_flags(parser)
    return parser


def _settings_flags(parser: argparse.ArgumentParser) -> None:
    declared = {declaration.name: declaration for declaration in sources.all_declarations()}
    del declared["application"]
    first = parser.add_argument_group("the settings that matter most")
    for name in _MATTER_MOST:
        _add(first, declared.pop(name))
    first.add_argument("-c", "--config", metavar="FILE", help="read settings from this TOML file [intralb.toml]")
    first.add_argument(
        "--show-config", action="store_true", help="print every setting in effect and its source, and exit"
    )
    for title, members in groupby(declared.values(), key=lambda declaration: declaration.group):
        group = parser.add_argument_group(title if title.isupper() else title.lower())
        for declaration in members:
            _add(group, declaration)


def _add(group: Any, declaration: Declaration) -> None:
    texts = [SHORT[declaration.name]] if declaration.name in SHORT else []
    group.add_argument(*texts, sources.flag(declaration.name), **_form(declaration))


def _form(declaration: Declaration) -> dict[str, Any]:
    meaning, default = sources.meaning(declaration)
    help = f"{meaning} [{default}]".replace("%", "%%")
    if isinstance(declaration.default, bool):
        return {"help": help, "action": argparse.BooleanOptionalAction}
    action = "append" if declaration.kind.joined_by else "store"
    return {"help": help, "metavar": declaration.kind.placeholder, "action": action}
