"""The commands of the command line, with their output and exit codes.

The process is already monkey-patched when this module is imported.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gevent

from ..config.importer import load_application
from ..errors import LoadError, OptionError
from ..pool.itimers import stop_timers_of_requests
from ..process.interrupts import keep_interrupts_in_requests
from ..process.logline import LINES, complain
from ..process.signals import end_as_first_process
from ..process.standardstreams import protect_standard_streams
from ..supervise.site import wanted_by
from . import binding
from .admintoken import token_line
from .announcement import Started, on_terminal
from .arguments import DEMO, PROGRAM, commands, parse
from .discovery import Found, find_application
from .failedapplication import FailedApplication
from .identity import Identity, pid_file
from .inputs import Inputs
from .logs import ServeLog
from .membership import Membership
from .ownframes import own_frames
from .places import Places, open_places
from .repatching import replace_ssl_context

if TYPE_CHECKING:
    from ..config.sources import Settings

__all__ = ["run"]

_Command = Callable[[argparse.Namespace, Collection[str]], int]

_DEMO_DEFAULTS: Mapping[str, str | bool] = {
    "db_init_func": "intralb_gevent.demo:open_session",
    "enable_logging": True,
    # Allow requests more time, because some pages of the demo are slow on purpose.
    "request_timeout_seconds": "30",
    # Let the kernel choose the port, so that the status page never conflicts with another server.
    "admin_bind": "127.0.0.1:0",
    # Keep the pool so small that a rush of requests, which the demo's status page can start, overloads the pool.
    "max_concurrent_per_router": "4",
    "max_workers": "6",
    "worker_group_size": "2",
    "queue_size": "8",
    "max_wait_seconds": "1",
    "worker_quiet_seconds": "6",
}


def run(arguments: Sequence[str], early: Collection[str] = ()) -> int:
    """Run one command and return its exit code; `early` names the modules that were imported before patching."""
    parsed = parse(arguments)
    try:
        return int(_COMMANDS[parsed.command](parsed, early))
    except (LoadError, OptionError) as error:
        complain(f"{PROGRAM}: error: {_described(error)}")
        return 2
    except KeyboardInterrupt:
        return 130


def _described(error: Exception) -> str:
    return "\n".join([str(error), *own_frames(error.__cause__)])


def _say(text: str, level: str = "WARNING") -> None:
    if LINES.write is not None:
        LINES.write(level, text)
    else:
        # Write to stderr, because stdout belongs to the application, and may be a pipe.
        print(f"{PROGRAM}: {level.lower()}: {text}", file=sys.stderr, flush=True)


# Functions that run one command each.


def _serve(parsed: argparse.Namespace, early: Collection[str]) -> int:
    protect_standard_streams()
    return _serve_with(parsed, {}, early)


def _demo(parsed: argparse.Namespace, early: Collection[str]) -> int:
    protect_standard_streams()
    return _serve_with(parsed, _DEMO_DEFAULTS, early)


def _check(parsed: argparse.Namespace, early: Collection[str]) -> int:
    from . import check

    inputs, effective, _ = _settings(parsed, {})
    application = find_application(effective.serving.application, inputs.environ)
    replace_ssl_context(early)
    load_application(application.reference)
    sized = not {"max_workers", "max_concurrent_per_router"}.isdisjoint(effective.given)
    findings = check.findings(effective.options, early, wanted_by(effective.processes), sized)
    print(check.report(str(application), findings), flush=True)
    return int(any(finding.severity == "warning" for finding in findings))


def _migrate(parsed: argparse.Namespace, early: Collection[str]) -> int:
    from .migrate import migrate

    print(migrate(parsed.source), end="")
    return 0


def _top(parsed: argparse.Namespace, early: Collection[str]) -> int:
    from .top import top

    return top(parsed)


def _completion(parsed: argparse.Namespace, early: Collection[str]) -> int:
    from .completion import script

    print(script(parsed.shell, PROGRAM, commands()), end="")
    return 0


def _settings(
    parsed: argparse.Namespace, defaults: Mapping[str, str | bool], logs: bool = False
) -> tuple[Inputs, Settings, ServeLog]:
    """Read the settings; return their sources, the settings, and the log, which is configured if `logs` is true."""
    inputs = Inputs.read(parsed, os.environ)
    inputs.use(os.environ)
    try:
        effective = inputs.settings(defaults)
        log = ServeLog(effective.logs, effective.options.log_format)
        if logs:
            log.begin(Identity.wanted_by(effective.serving).owner)
    finally:
        for warning in inputs.warnings():
            _say(warning)
    return inputs, effective, log


def _serve_with(parsed: argparse.Namespace, defaults: Mapping[str, str | bool], early: Collection[str]) -> int:
    membership = Membership()
    with membership.reporting_failures(), ExitStack() as stack:
        inputs, effective, log = _settings(parsed, defaults, logs=not parsed.show_config)
        if parsed.show_config:
            print(effective.show())
            return 0
        application = find_application(effective.serving.application, inputs.environ)
        membership.options = effective.processes
        # By default, gevent installs its SIGCHLD handler after the first fork. If the first forked child exits before
        # the handler is installed, os.waitpid() waits for the child until the request's deadline.
        gevent.get_hub().loop.install_sigchld()
        end_as_first_process()
        places = _prepare(effective, membership, stack)
        return _run_server(application, inputs, effective, early, membership, places, log)


def _prepare(effective: Settings, membership: Membership, stack: ExitStack) -> Places:
    """Open the listeners and files as the user who started this process, and then change to the user of `--user`."""
    serving = effective.serving
    identity = Identity.wanted_by(serving)
    if serving.umask is not None:
        os.umask(serving.umask)
    if not membership.supervised:
        stack.enter_context(pid_file(serving.pid_file, identity))
    places = open_places(serving, membership, identity, stack)
    identity.assume()
    return places


def _run_server(
    found: Found,
    inputs: Inputs,
    effective: Settings,
    early: Collection[str],
    membership: Membership,
    places: Places,
    log: ServeLog,
) -> int:
    # Replace these functions before importing the application, which may keep references to the original functions.
    stop_timers_of_requests()
    keep_interrupts_in_requests()
    replaced = replace_ssl_context(early)
    # Print all stacks on a crash in C, and on the SIGABRT that the supervisor sends to a stuck process.
    if membership.supervised:
        faulthandler.enable(2)
    membership.watch_start()
    application = _loaded(found, effective, membership, places)

    from ..integrations.protection import protect
    from ..pool.balancer import LoadBalancer
    from . import serving

    if not faulthandler.is_enabled():
        faulthandler.enable(2)
    log.settle()
    serving.keep_freed_memory()
    protected = protect() if effective.options.integrations else ()
    _report_modules(early, replaced)
    balancer = LoadBalancer(application, effective.options)

    def announce(bound: Sequence[binding.Address], admin: str) -> None:
        if found.reference == DEMO:
            os.environ["INTRALB_DEMO_ADMIN"] = admin
        _announce(found, effective, inputs, protected, membership, bound, admin)
        if places.admin_token is not None and not membership.supervised:
            _say(token_line(places.admin_token))

    serving.serve(balancer, places, membership, announce)
    return 0


def _report_modules(early: Collection[str], replaced: Sequence[str]) -> None:
    """Log which modules now have the patched class, and which modules were imported before monkey-patching."""
    from . import check

    if replaced:
        before = f"{check.some(replaced)} imported ssl.SSLContext before monkey-patching"
        _say(f"{before}; replaced it with the patched class", "INFO")
    for finding in check.at_start(early):
        _say(f"{finding.title}; {finding.remedy}")


def _loaded(found: Found, effective: Settings, membership: Membership, places: Places) -> Callable[..., Any]:
    """Import the application. With `reload`, if the import fails, return an application that shows the error."""
    try:
        return load_application(found.reference)
    except LoadError as error:
        if not effective.processes.reload:
            raise
        _say(_described(error), "ERROR")
        # Become ready without waiting for `ready_path`, which would only return the error page with status 500.
        # Otherwise, the process with the previous version of the application would continue to serve.
        membership.options = replace(effective.processes, ready_path=None)
        return FailedApplication(error, places.is_local)


def _announce(
    found: Found,
    effective: Settings,
    inputs: Inputs,
    protected: Sequence[str],
    membership: Membership,
    bound: Sequence[binding.Address],
    admin: str,
) -> None:
    from . import check

    options = effective.options
    words, processes, is_first, generation = membership.describe()
    demo = found.reference == DEMO and isinstance(bound[0], binding.HostAddress)
    started = Started(
        str(found),
        os.getpid(),
        [str(address) for address in bound],
        options,
        processes,
        words,
        protected,
        admin,
        inputs.found,
    )
    if LINES.json or not on_terminal():
        _say(started.line(), "INFO")
    else:
        print(started.text(not words or (is_first and generation == 1)), file=sys.stderr, flush=True)
    if is_first and processes > 1 and (protected or options.db_init_func is not None):
        _say(f"{check.sessions_of_all(options, processes)}; {check.SESSIONS_REMEDY}")
    if demo and (is_first or not words):
        _say(f"open {bound[0]} in a browser", "INFO")


_COMMANDS: Mapping[str, _Command] = {
    "serve": _serve,
    "demo": _demo,
    "check": _check,
    "migrate": _migrate,
    "top": _top,
    "completion": _completion,
}
