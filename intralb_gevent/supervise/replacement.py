"""Replaces the supervisor with a new one in the same process; the new one takes over the listeners and processes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from .descriptors import NOTIFY, STATE, TABLE, Descriptor
from .inbox import block
from .launch import Program
from .member import cause_of_end

if TYPE_CHECKING:
    from .supervisor import Supervisor

__all__ = ["replace_supervisor"]

_TRIAL_SECONDS: Final = 10.0
_TRIAL: Final = "import sys; from intralb_gevent.cli.supervising import rehearse; rehearse(sys.argv[1:])"


def replace_supervisor(supervisor: Supervisor) -> str:
    """Execute the program again; if this is not possible, return the reason.

    A child process first imports the program and checks its settings. If this process executed a program that cannot
    start, all serving processes would lose their supervisor and drain.
    """
    try:
        supervisor.site.read_options()
        _try(supervisor.site.program)
    except subprocess.CalledProcessError as error:
        return str((error.stderr.strip().splitlines() or [f"its trial {cause_of_end(error.returncode)}"])[-1])
    except Exception as error:
        return str(error)
    supervisor.log.say("replacing the supervisor")
    # Signals that arrive from now on stay pending until the successor unblocks them.
    block()
    supervisor.inbox.hand_on()
    supervisor.site.program.execute(_descriptors(supervisor), supervisor.site.protocol, block())
    raise AssertionError("an executed program does not return")


def _try(program: Program) -> None:
    if not os.access(program.command[0], os.X_OK):
        raise FileNotFoundError(f"{program.command[0]} cannot be executed")
    subprocess.run(
        [sys.executable, "-c", _TRIAL, *sys.argv[1:]],
        cwd=program.directory,
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=_TRIAL_SECONDS,
        text=True,
    )


def _descriptors(supervisor: Supervisor) -> list[Descriptor]:
    return [
        *supervisor.site.listeners,
        Descriptor(supervisor.state.descriptor, STATE),
        Descriptor(supervisor.table.descriptor, TABLE),
        Descriptor(supervisor.notify.fileno(), NOTIFY),
    ]
