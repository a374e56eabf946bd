"""The command line: `serve`, `demo` and `check`.

Decides the commands, their flags, what they print and their exit codes. It must not know what a setting means:
the flags come from the declarations. The process has been monkey-patched when this is imported.
"""

from __future__ import annotations

import argparse
import difflib
import faulthandler
import os
import platform
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from typing import Any, NoReturn

import gevent

from . import __version__, binding, settings
from .compiling import is_compiled
from .errors import LoadError, OptionError
from .loading import load_application
from .options import Declaration, Options, declarations
from .pool.itimers import stop_timers_of_requests
from .process.interrupts import keep_interrupts_in_requests
from .process.signals import end_as_first_process
from .process.standarderror import protect_standard_error
from .repatching import replace_ssl_context

__all__ = ["run"]

_Command = Callable[[argparse.Namespace, Collection[str]], int]

_PROGRAM = "intralb-gevent"
_DEFAULT_BIND = "127.0.0.1:8000"
_DEMO = "intralb_gevent.demo:application"
_DEMO_DEFAULTS: Mapping[str, str | bool] = {
    "db_init_func": "intralb_gevent.demo:open_session",
    "enable_logging": True,
    # Some of its pages are slow on purpose.
    "request_timeout_seconds": "30",
}
_EPILOG = """\
Every setting can also be an environment variable (INTRALB_QUEUE_SIZE for
--queue-size) or a key in the file that --config names (queue_size). A flag
counts before a variable, and a variable before the file.

exit codes:
  0  all went well
  1  it cannot listen, or a shutdown cut requests or what the application
     still did after them, or check gives warnings
  2  wrong usage, a value that is not allowed, or an application that cannot
     be loaded
  70 the event loop was blocked for block_timeout_seconds
"""


def run(arguments: Sequence[str], early: Collection[str] = ()) -> int:
    """Run one command and return its exit code; `early` names the modules imported before patching."""
    parsed = _parse(arguments)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return int(parsed.command(parsed, early))
    except (LoadError, OptionError) as error:
        _say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130


def _say(text: str) -> None:
    # Not on the standard output: that one is the application's, and it may be a pipe.
    print(f"{_PROGRAM}: {text}", file=sys.stderr, flush=True)


# The commands.


def _serve(parsed: argparse.Namespace, early: Collection[str]) -> int:
    protect_standard_error()
    return _run_server(parsed, _settings(parsed, {}), early)


def _demo(parsed: argparse.Namespace, early: Collection[str]) -> int:
    protect_standard_error()
    return _run_server(parsed, _settings(parsed, _DEMO_DEFAULTS), early)


def _check(parsed: argparse.Namespace, early: Collection[str]) -> int:
    from . import check

    options = _settings(parsed, {}).options
    replace_ssl_context(early)
    load_application(parsed.application)
    findings = check.findings(options, early)
    print(check.report(parsed.application, findings), flush=True)
    return int(any(finding.severity == "warning" for finding in findings))


def _settings(parsed: argparse.Namespace, defaults: Mapping[str, str | bool]) -> settings.Settings:
    for warning in settings.unknown_variables(os.environ):
        _say(f"warning: {warning}")
    flags = {d.name: _given(parsed, d) for d in declarations() if getattr(parsed, d.name) is not None}
    return settings.load(flags, os.environ, parsed.config, defaults)


def _given(parsed: argparse.Namespace, declaration: Declaration) -> Any:
    value = getattr(parsed, declaration.name)
    return declaration.kind.joined_by.join(value) if isinstance(value, list) else value


def _run_server(parsed: argparse.Namespace, effective: settings.Settings, early: Collection[str]) -> int:
    if parsed.show_config:
        print(effective.show())
        return 0
    addresses = [binding.parse(text) for text in parsed.bind or [_DEFAULT_BIND]]
    admin = binding.parse(parsed.admin_bind, "--admin-bind") if parsed.admin_bind else None
    # gevent does so only after the first fork, and would wait for ever for a child that has ended by then.
    gevent.get_hub().loop.install_sigchld()
    end_as_first_process()
    # Before the application is imported, which may take copies of the functions that these replace.
    stop_timers_of_requests()
    keep_interrupts_in_requests()
    replaced = replace_ssl_context(early)
    application = load_application(parsed.application)

    from . import check, serving
    from .integrations.protection import protect
    from .pool.balancer import LoadBalancer

    # A crash in C, and the watchdog's last resort, show the stacks.
    if not faulthandler.is_enabled():
        faulthandler.enable(2)
    serving.configure_logging()
    serving.keep_freed_memory()
    if replaced:
        _say(
            f"the ssl.SSLContext of {check.some(replaced)} was from before monkey-patching; it has the patched one now"
        )
    protected = protect() if effective.options.integrations else ()
    for finding in check.at_start(early):
        _say(f"warning: {finding.title}; {finding.remedy}")
    balancer = LoadBalancer(application, effective.options)
    places = serving.Places(addresses, admin, parsed.ready_file)
    serving.serve(balancer, places, lambda bound: _announce(parsed, effective.options, bound, protected))
    return 0


def _announce(
    parsed: argparse.Namespace, options: Options, bound: Sequence[binding.Address], protected: Sequence[str]
) -> None:
    sizes = sorted({options.first_workers, options.max_workers})
    where = ", ".join(map(str, bound))
    print(
        f"{_PROGRAM} {__version__} serving {parsed.application} on {where} - "
        f"{'-'.join(map(str, sizes))} workers x {options.max_concurrent_per_router} slots, "
        f"queue {options.queue_size} each, deadline {options.deadline_seconds:g} s"
        f"{', protecting ' if protected else ''}{', '.join(protected)}",
        file=sys.stderr,
        flush=True,
    )
    if parsed.application == _DEMO and isinstance(bound[0], binding.HostAddress):
        _say(f"open {bound[0]} in a browser")


# The flags.


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """End the program with exit code 2."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parsed, unknown = _parser().parse_known_args(arguments)
    if unknown:
        parsed.parser.error(_not_understood(unknown[0]))
    if parsed.application is None and not parsed.show_config:
        parsed.parser.error("name the application, as MODULE:APP")
    return parsed


def _not_understood(argument: str) -> str:
    flags = ["--admin-bind", "--bind", "--config", "--ready-file", "--show-config"]
    flags += [settings.flag(declaration.name) for declaration in declarations()]
    close = difflib.get_close_matches(argument.partition("=")[0], flags, n=1)
    return f"{argument!r} is not understood{f'; did you mean {close[0]}?' if close else ''}"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROGRAM,
        description="Serve a legacy WSGI application on gevent, balanced within one process.",
        epilog=f"'{_PROGRAM} COMMAND --help' tells the flags of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_versions())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve = _command(commands, "serve", _serve, "serve an application", "MODULE:APP")
    _serving_flags(serve)
    demo = _command(commands, "demo", _demo, "serve the bundled sample application, on SQLite")
    demo.set_defaults(application=_DEMO)
    _serving_flags(demo)
    check = _command(commands, "check", _check, "import an application and warn of what will hurt it", "MODULE:APP")
    for command in (serve, demo, check):
        _settings_flags(command)
    return parser


def _versions() -> str:
    kind = "compiled" if is_compiled("pool.balancer") else "not compiled"
    return f"{_PROGRAM} {__version__} ({kind}, gevent {gevent.__version__}, Python {platform.python_version()})"


def _command(commands: Any, name: str, does: _Command, help: str, application: str | None = None) -> _Parser:
    parser: _Parser = commands.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        usage=" ".join(filter(None, (_PROGRAM, name, application, "[FLAGS]"))),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(command=does, parser=parser, show_config=False)
    if application is not None:
        about = "the WSGI callable to import; MODULE:FACTORY() calls FACTORY to get it"
        # Optional here, because `serve --show-config` needs none.
        parser.add_argument("application", metavar=application, nargs="?", help=about)
    parser.add_argument("--config", metavar="FILE", help="read settings from this TOML file")
    return parser


def _serving_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bind",
        metavar="ADDRESS",
        action="append",
        help=f"HOST:PORT, [IPV6]:PORT or unix:PATH; may be given more than once [{_DEFAULT_BIND}]",
    )
    parser.add_argument(
        "--admin-bind",
        metavar="ADDRESS",
        help="answer /live, /ready and /snapshot there; for probes and operators, not for clients [off]",
    )
    parser.add_argument("--ready-file", metavar="FILE", help="write the bound addresses there as JSON, once listening")
    parser.add_argument(
        "--show-config", action="store_true", help="print every setting in effect and its source, and end"
    )


def _settings_flags(parser: argparse.ArgumentParser) -> None:
    for title, members in groupby(declarations(), key=lambda declaration: declaration.group):
        group = parser.add_argument_group(title.lower())
        for declaration in members:
            group.add_argument(settings.flag(declaration.name), **_form(declaration))


def _form(declaration: Declaration) -> dict[str, Any]:
    meaning, default = settings.meaning(declaration)
    help = f"{meaning} [{default}]".replace("%", "%%")
    if isinstance(declaration.default, bool):
        return {"help": help, "action": argparse.BooleanOptionalAction}
    action = "append" if declaration.kind.joined_by else "store"
    return {"help": help, "metavar": declaration.kind.placeholder, "action": action}
