"""Start the supervisor: read the settings for the processes, open the listeners, and run until the shutdown is over.

The supervisor's process is not monkey-patched. If the settings need no supervisor, this process itself serves the
application.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from .. import __version__
from ..config.logs import LogOptions
from ..config.processes import ProcessOptions
from ..config.serving import ServingOptions
from ..config.sources import flag as flag_of
from ..errors import LoadError, OptionError
from ..process.logline import LINES
from ..supervise.descriptors import ADMIN, AGENT, NOTIFY, OWN, STATE, TABLE, Descriptor, check_listener, take
from ..supervise.launch import Program, own_command, start_directory
from ..supervise.log import Log, open_standard_descriptors
from ..supervise.notify import Notifier, NotifySocket, watchdog_seconds
from ..supervise.site import Site, wanted_by
from ..supervise.statefile import StateFile
from ..supervise.supervisor import Supervisor
from ..supervise.table import Table
from . import binding
from .admintoken import share_token, token_line
from .arguments import PROGRAM, parse
from .choice import replaces_supervisor
from .deletedfiles import restored_pid_file, restored_socket
from .discovery import find_application
from .identity import Identity, check_pid_file, pid_file
from .inputs import Inputs
from .logconfig import file_handler
from .logwriter import LogWriter
from .readyfile import explained, forget_ready_file, write_ready_file
from .watching import start_watching

__all__ = ["rehearse", "supervise"]

_CLIENTS: Final = "clients"
_OPERATORS: Final = {ADMIN: "admin_bind", AGENT: "agent_bind"}
"""The descriptor names of the listeners that are not for clients, each with the setting of its address."""


def supervise(arguments: Sequence[str]) -> int | None:
    """Run the supervisor and return its exit code; return None if the settings need no supervisor."""
    parsed = parse(arguments)
    directory = start_directory()
    try:
        inputs = Inputs.read(parsed, os.environ)
        options = inputs.processes()
        # A supervisor that replaces another one takes over its processes, even if a single process is wanted now.
        if options.supervised or replaces_supervisor(os.environ):
            return _run(parsed, directory, inputs, options)
    except (LoadError, OptionError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    os.chdir(directory)
    return None


def rehearse(arguments: Sequence[str]) -> None:
    """Exit with a one-line message if a supervisor with these arguments could not start.

    A supervisor calls this function in a separate process before SIGUSR2 replaces it, because a successor that cannot
    start would leave the processes without a supervisor. The function may belong to a later version of this package.
    """
    try:
        inputs = Inputs.read(parse(arguments), os.environ)
        inputs.processes()
        settings = _Settings.of(inputs)
    except (LoadError, OptionError) as error:
        raise SystemExit(str(error)) from None
    check_pid_file(settings.serving.pid_file)


class _Settings(NamedTuple):
    """The settings of the supervisor itself."""

    logs: LogOptions
    log_format: str
    serving: ServingOptions
    identity: Identity
    application: str

    @classmethod
    def of(cls, inputs: Inputs) -> _Settings:
        """Read and check the settings; raises `OptionError` or `LoadError`."""
        logs, log_format = inputs.logs()
        serving = inputs.serving()
        application = str(find_application(serving.application, inputs.environ))
        return cls(logs, log_format, serving, Identity.wanted_by(serving), application)


def _run(parsed: argparse.Namespace, directory: str, inputs: Inputs, options: ProcessOptions) -> int:
    if not sys.platform.startswith("linux"):
        raise OptionError(
            f"processes: {options.processes!r} is not allowed on {sys.platform}; a supervisor needs Linux"
        )
    open_standard_descriptors()
    logs, log_format, serving, identity, application = _Settings.of(inputs)
    LINES.json = log_format == "json"
    protocol = {name: os.environ[name] for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC") if name in os.environ}
    seconds = watchdog_seconds(os.environ, os.getpid())
    notifier = Notifier.taken_from(os.environ)
    if serving.umask is not None:
        os.umask(serving.umask)
    if logs.log_file is not None and not replaces_supervisor(os.environ):
        _check_log_file(logs.log_file)
    with contextlib.ExitStack() as stack:
        log = _log(inputs, logs, log_format, stack)
        listeners = _Listeners(serving, application, identity, stack)
        listeners.open(take(os.environ, os.getpid()))
        stack.enter_context(pid_file(serving.pid_file, identity))
        site = _site(parsed, directory, listeners, protocol, log)
        if options.reload and not listeners.resumed:
            # A supervisor that replaces another one has the same process id, so the existing watching program suffices.
            stack.callback(start_watching(log).terminate)
        if not listeners.resumed:
            _announce(listeners, serving, options, log)
        supervisor = Supervisor(site, options, notifier, seconds, listeners.notify, listeners.state, listeners.table)
        if listeners.resumed:
            log.say(f"supervisor {os.getpid()} was replaced by {__version__}")
        return supervisor.run()


def _check_log_file(path: str) -> None:
    """Raise `OptionError` if the log file cannot be opened: each process would report this, and be started again."""
    # Closing a named pipe would show its reader the end of the log.
    if not Path(path).is_fifo():
        file_handler(path).close()


def _site(
    parsed: argparse.Namespace, directory: str, listeners: _Listeners, protocol: dict[str, str], log: Log
) -> Site:
    """Return the site, whose processes start in `directory`; `protocol` has systemd's variables for a new
    supervisor."""

    def read_options() -> ProcessOptions:
        # Enter the directory again: a symbolic link in its path may have a new target, and the path of the settings
        # file may be relative.
        os.chdir(directory)
        return Inputs.read(parsed, os.environ).processes()

    return Site(
        Program(own_command(), directory),
        listeners.descriptors,
        protocol,
        listeners.lent,
        read_options,
        listeners.close,
        listeners.write_ready_file,
        lambda served: listeners.restore_files(served, log),
        lambda: listeners.withdraw_files(log),
        log,
    )


def _announce(listeners: _Listeners, serving: ServingOptions, options: ProcessOptions, log: Log) -> None:
    forget_ready_file(serving.ready_file)
    log.say(listeners.start_line(wanted_by(options)))
    if options.reload and options.processes != 1:
        log.say(f"--reload runs one process, and not the {options.processes} of --processes", "WARNING")
    if serving.admin_actions:
        log.say(token_line(share_token(os.environ)))


def _log(inputs: Inputs, options: LogOptions, log_format: str, stack: contextlib.ExitStack) -> Log:
    """Return the supervisor's log. With `log_config`, a child process writes the log, because a handler may block."""
    level = options.log_level.upper()
    if options.log_config is not None:
        writer = LogWriter(options.log_config, log_format, inputs.environ)
        stack.callback(writer.end)
        return Log(None, level, writer.socket)
    # With the Combined Log Format, the file contains only requests, so the supervisor logs to stderr.
    return Log(None if log_format == "combined" else options.log_file, level)


@dataclass
class _Listeners:
    """The listeners that the processes inherit.

    This supervisor opens the listeners, or inherits them from systemd or from its predecessor, which it has replaced.
    """

    options: ServingOptions
    application: str
    identity: Identity
    stack: contextlib.ExitStack
    descriptors: list[Descriptor] = field(default_factory=list)
    lent: bool = False
    """True if systemd keeps the listeners open after all processes have ended."""
    notify: NotifySocket | None = None
    """The predecessor's socket; None without a predecessor."""
    state: StateFile | None = None
    """The predecessor's state; None without a predecessor."""
    table: Table | None = None
    """The predecessor's table; None without a predecessor, or if the table has the layout of another version."""
    own_sockets: list[socket.socket] = field(default_factory=list)
    replaced: dict[int, int] = field(default_factory=dict)
    """Copies of the listeners that reloads have replaced for processes that have not started yet, by the number of the
    descriptor."""
    restored: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Removes the sockets that replaced them."""

    @property
    def resumed(self) -> bool:
        """True if this supervisor replaces a predecessor."""
        return self.state is not None

    def open(self, inherited: Sequence[Descriptor]) -> None:
        """Take over the inherited listeners, and open a listener for each other address in the settings."""
        for each in inherited:
            if each.name == STATE:
                self.state = StateFile(each.number)
            elif each.name == NOTIFY:
                self.notify = NotifySocket(each.number)
            elif each.name == TABLE:
                with contextlib.suppress(OptionError):
                    self.table = Table(each.number)
            elif each.name.startswith(OWN):
                # Close a descriptor that this version does not know; a predecessor of another version has passed it.
                os.close(each.number)
            else:
                check_listener(each)
                self.descriptors.append(each)
        self.lent = bool(self.descriptors) if self.state is None else bool(self.state.read().get("lent"))
        if self.state is not None:
            self._remove_files_later()
            return
        names = {each.name for each in self.descriptors}
        if not names - set(_OPERATORS):
            for text in self.options.bind:
                self._open(text, "bind", _CLIENTS)
        for name, setting in _OPERATORS.items():
            text = getattr(self.options, setting)
            if text is not None and name not in names:
                self._open(text, setting, name)

    def _open(self, text: str, setting: str, name: str) -> None:
        flag = flag_of(setting)
        address = binding.parse(text, setting, "http", self.options.socket_mode, self.identity.owner)
        if isinstance(address, binding.InheritedAddress):
            self.descriptors.append(Descriptor(address.descriptor, name))
            return
        with explained(f"cannot listen on {address}", f"choose another {flag}"):
            listener = self.stack.enter_context(binding.listening(address))
        listener.setblocking(False)
        self.own_sockets.append(listener)
        self.descriptors.append(Descriptor(listener.fileno(), name))

    def restore_files(self, served: bool, log: Log) -> None:
        """Create deleted sockets of this supervisor's addresses, and its deleted pid file, again.

        If `served` is false, no process of the latest reload serves yet, so its sockets may still have to be removed.
        """
        restored_pid_file(self.options.pid_file, self.identity, self.stack, log.say)
        if self.lent:
            return
        numbers = {str(binding.inherited(each.number).address): each.number for each in self.descriptors}
        if served:
            self._forget_replaced()
            self.restored = self.stack.enter_context(contextlib.ExitStack())
        for text in filter(None, (*self.options.bind, self.options.admin_bind, self.options.agent_bind)):
            address = binding.parse(text, "bind", "http", self.options.socket_mode, self.identity.owner)
            if isinstance(address, binding.UnixAddress) and str(address) in numbers:
                self._restore(address, numbers[str(address)], log)

    def _restore(self, address: binding.UnixAddress, number: int, log: Log) -> None:
        copy = os.dup(number)
        if restored_socket(address, number, self.restored, log.say) and number not in self.replaced:
            self.replaced[number] = copy
        else:
            os.close(copy)

    def withdraw_files(self, log: Log) -> None:
        """After a failed reload, remove the sockets that it has created: the running processes do not have their
        listeners, so clients would wait for a response for ever."""
        addresses = [binding.inherited(number).address for number in self.replaced]
        for number, copy in self.replaced.items():
            os.dup2(copy, number, inheritable=False)
        self._forget_replaced()
        self.restored.close()
        for address in addresses:
            log.say(f"removed {address} again, on which only new processes could have listened; reload again", "ERROR")

    def _forget_replaced(self) -> None:
        for copy in self.replaced.values():
            os.close(copy)
        self.replaced.clear()

    def _remove_files_later(self) -> None:
        for each in self.descriptors:
            address = binding.inherited(each.number).address
            if not self.lent and isinstance(address, binding.UnixAddress) and os.path.exists(address.path):
                self.stack.enter_context(binding.removed_at_the_end(address.path))
        if self.options.ready_file and os.path.exists(self.options.ready_file):
            self.stack.enter_context(binding.removed_at_the_end(self.options.ready_file))

    def close(self) -> None:
        """Close this process's copies of the listeners, so that the kernel refuses clients once no process listens."""
        for each in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(each.number)
        for sock in self.own_sockets:
            sock.detach()
        self._forget_replaced()

    def _addresses(self, kind: str) -> list[binding.HostAddress | binding.UnixAddress]:
        scheme = "https" if self.options.certfile is not None and kind == _CLIENTS else "http"
        kinds = ((each.name if each.name in _OPERATORS else _CLIENTS, each.number) for each in self.descriptors)
        return [binding.inherited(number, scheme).address for name, number in kinds if name == kind]

    def start_line(self, wanted: int) -> str:
        """Return the line that the supervisor logs at its start."""
        where = ", ".join(map(str, self._addresses(_CLIENTS)))
        processes = "1 process" if wanted == 1 else f"{wanted} processes"
        program = f"{PROGRAM} {__version__} supervisor {os.getpid()}"
        return f"{program}: {processes} of {self.application} on {where}"

    def write_ready_file(self) -> None:
        """Write the ready file, if the settings name one; the file is removed when the supervisor ends."""
        path = self.options.ready_file
        if path is None:
            return
        facts: dict[str, object] = {
            "pid": os.getpid(),
            "addresses": [address.facts() for address in self._addresses(_CLIENTS)],
        }
        for name in _OPERATORS:
            for address in self._addresses(name):
                facts[name] = address.facts()
        write_ready_file(path, facts)
        self.stack.enter_context(binding.removed_at_the_end(path))
