"""The supervisor, a loop that starts, replaces and ends the serving processes.

The loop waits only for signals, for reports of its processes, and for the next time at which it has to act. The
supervisor handles no requests, so a blocked or crashed process does not affect it.
"""

from __future__ import annotations

import select
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Final

from ..config.processes import MOST_PROCESSES, ProcessOptions
from ..policy.backoff import Backoff
from ..policy.rollout import next_step
from .crew import Crew
from .health import ASK_SECONDS, end_stuck, is_pending, push, to_recycle, why_stuck
from .inbox import Inbox
from .member import Process, cause_of_end
from .notify import Message, Notifier, NotifySocket
from .reload import Reload
from .replacement import replace_supervisor
from .report import Report
from .site import Site, wanted_by
from .statefile import StateFile
from .table import Table

__all__ = ["NOT_STARTED", "Supervisor"]

NOT_STARTED: Final = 3
"""Exit code if no process could ever be started."""

IDLE_SECONDS: Final = 1.0
PENDING_SECONDS: Final = 0.02
"""Maximum seconds between two iterations of the loop while the supervisor may soon have to act."""

LATE_SECONDS: Final = 3.0
"""If more seconds than this pass between two iterations of the loop, this process, or the whole machine, must have been
stopped."""


class Supervisor:
    """Runs the processes of one site until a signal shuts the site down."""

    def __init__(
        self,
        site: Site,
        options: ProcessOptions,
        notifier: Notifier,
        watchdog_seconds: float | None = None,
        notify: NotifySocket | None = None,
        state: StateFile | None = None,
        table: Table | None = None,
    ) -> None:
        """Start without processes, or, with `notify`, `state` and `table`, take over the processes of a predecessor."""
        known: Mapping[str, Any] = {} if state is None else state.read()
        self.site, self.options, self.notifier = site, options, notifier
        self.log = site.log
        self.notify = notify or NotifySocket()
        self.state = state or StateFile()
        self.table = table or Table()
        self.crew = Crew(site, self.notify, self.state, self.table, known)
        self.wanted = int(known.get("wanted", wanted_by(options)))
        self.generation = int(known.get("generation", 1))
        self.proven = bool(known.get("proven"))
        """True once any process has been ready."""
        self.complete = bool(known.get("complete"))
        """True once all processes have been ready."""
        self.reload = Reload(options, known.get("reload", {}))
        self.counts: dict[str, Counter[str]] = {
            kind: Counter(known.get("counts", {}).get(kind, {})) for kind in ("restarts", "reloads")
        }
        """Number of replaced processes by cause, and of reloads by result, since the start of the site."""
        self.backoff = Backoff()
        self.stopping = self.forced = False
        self._stopped = 0.0
        self.failure = str(known.get("failure", ""))
        """Description of the last unexpected end of a process; '' if there was none."""
        self._traceback = ""
        self._code = 0
        self._report = Report(notifier, self.state, watchdog_seconds)
        self.inbox = Inbox()
        self._looked = monotonic()
        self._actions = self._known_actions()

    def __repr__(self) -> str:
        return f"<Supervisor of {self.wanted} processes, {self.crew!r}>"

    def _known_actions(self) -> Mapping[int, Callable[[], None]]:
        return {
            signal.SIGTERM: lambda: self._stop("SIGTERM: "),
            signal.SIGINT: lambda: self._stop("SIGINT: "),
            signal.SIGQUIT: self._kill,
            signal.SIGHUP: self._reload,
            signal.SIGUSR1: self._reopen_logs,
            signal.SIGTTIN: lambda: self._resize(+1),
            signal.SIGTTOU: lambda: self._resize(-1),
        }

    def run(self) -> int:
        """Run the loop; return the exit code once all processes have ended."""
        while True:
            self._advance(monotonic())
            self._report.publish(self)
            if self.stopping and not self.crew.all:
                return self._ended()
            self._wait()
            self._look()

    def _wait(self) -> None:
        pending = self.stopping or any(map(is_pending, self.crew.all)) or self.backoff.not_before > monotonic()
        poll = select.poll()
        for source in (self.inbox, self.notify):
            poll.register(source, select.POLLIN)
        poll.poll((PENDING_SECONDS if pending else IDLE_SECONDS) * 1000)

    def _look(self) -> None:
        """Handle the signals that have arrived, the reports and the ends of processes since the last iteration."""
        now = monotonic()
        late, self._looked = now - self._looked, now
        if late > LATE_SECONDS:
            self.crew.forgive(late)
        numbers = self.inbox.take()
        for number in numbers:
            self._actions.get(number, lambda: None)()
        for process, message in self.crew.listen():
            self._heard(process, message)
        for process, code in self.crew.reap():
            self._has_ended(process, code)
        for process in list(self.crew.all):
            self._look_after(process, now)
        if signal.SIGUSR2 in numbers and not self.stopping:
            # Replace the supervisor last, because the new program replaces this program.
            self._replace()

    def _ended(self) -> int:
        if self._code == NOT_STARTED:
            self.log.say(f"no process could be started: {self.failure}", "CRITICAL", self._traceback)
        else:
            self.log.say(f"stopped, exit {self._code}")
        return self._code

    # The methods below react to reports and ends of processes.

    def _heard(self, process: Process, message: Message) -> None:
        if process.state == "ready" and "READY" in message.fields:
            self.proven = True

    def _has_ended(self, process: Process, code: int) -> None:
        if process.state == "draining" or process.asked is not None:
            # This process was asked to exit. Unless SIGTERM has killed the process or its exit code is 0, the process
            # has aborted requests.
            if code in (0, -signal.SIGTERM):
                return
            if self.stopping:
                self._code = self._code or 1
            if not process.failed:
                self.log.say(f"process {process.pid} {cause_of_end(code)} while it drained", "WARNING")
            return
        self.counts["restarts"]["exit" if code >= 0 else "signal"] += 1
        self._fail(process, f"{cause_of_end(code)}{self._reported(process)}")

    def _reported(self, process: Process) -> str:
        return f": {process.status}" if process.state == "starting" and process.status else ""

    def _look_after(self, process: Process, now: float) -> None:
        cause = why_stuck(process, now, self.options)
        if cause is not None:
            fails = process.state != "draining"
            end_stuck(process, now)
            if fails:
                self.counts["restarts"]["stuck"] += 1
                self._fail(process, cause)
            else:
                self.log.say(f"process {process.pid} {cause} while it drained; the supervisor ends it", "WARNING")
        push(process, now, self.forced)

    def _fail(self, process: Process, cause: str) -> None:
        """Record that a process has ended, or must be ended, unexpectedly."""
        process.failed = True
        self._traceback = process.traceback
        if self.stopping:
            self._code = self._code or 1
        self.backoff.ended(monotonic(), process.started, process.ready)
        cause = f"process {process.pid} (generation {process.generation}) {cause}"
        self._suffer(cause, process.generation == self.generation)

    def _suffer(self, failure: str, is_of_reload: bool) -> None:
        """Log a failure; abort the running reload if a new process failed; shut down if no process can be started."""
        self.failure = failure
        self.log.say(failure, "ERROR")
        if self.reload.running and is_of_reload:
            self._abort_reload(failure)
        if self.backoff.hopeless(self.proven) and not self.stopping:
            self._code = NOT_STARTED
            self._stop()

    # Actions on processes.

    def _advance(self, now: float) -> None:
        if self.stopping:
            for each in self.crew.all:
                if each.asked is None and (self.forced or each.stopping or now - self._stopped >= ASK_SECONDS):
                    self._drain(each, now)
            return
        self._recycle(now)
        self.backoff.look(now, min((each.ready for each in self.crew.in_state("ready") if each.ready), default=None))
        while (step := next_step([each.member for each in self.crew.all], self.wanted, self.proven)) is not None:
            if step.action == "drain":
                self._drain(next(each for each in self.crew.all if each.number == step.number), now)
            elif now < self.backoff.not_before or not self._start():
                break
        self._note_completion()

    def _start(self) -> bool:
        try:
            self.crew.start(self.generation, self.options)
        except OSError as error:
            self.backoff.ended(monotonic(), monotonic(), None)
            self._suffer(f"no process can be started: {error.strerror}", is_of_reload=True)
            return False
        return True

    def _drain(self, process: Process, now: float) -> None:
        process.asked = now
        process.state = "draining"
        if not process.stopping:
            process.send(signal.SIGTERM)

    def _recycle(self, now: float) -> None:
        found = to_recycle(self.crew.all, now)
        if found is not None:
            process, reason = found
            process.outdated = reason
            self.counts["restarts"][reason] += 1
            self.log.say(f"process {process.pid} is replaced: it has reached process_max_{process.outdated}")

    def _note_completion(self) -> None:
        ready = self.crew.in_state("ready")
        if len(ready) < self.wanted or any(each.outdated == "reload" for each in ready):
            return
        if not self.complete:
            self.complete = True
            self._report.publish(self)
            self.site.when_ready()
            self._report.ready(self)
        if self.reload.running and len(self.crew.all) == len(ready):
            self.reload.succeed()
            self.counts["reloads"]["done"] += 1
            count = "1 process" if len(ready) == 1 else f"{len(ready)} processes"
            self.log.say(f"reload: {count} of generation {self.generation} {'serves' if len(ready) == 1 else 'serve'}")
            self._report.ready(self)

    # Reactions to signals.

    def _stop(self, cause: str = "") -> None:
        """Begin the shutdown; the second call forces it, and the third kills the processes.

        `cause` is the name of the signal, for the log.
        """
        if self.forced:
            self._kill()
        elif self.stopping:
            self.log.say(f"{cause}no more time for running requests")
            self.forced = True
        else:
            self.stopping, self._stopped = True, monotonic()
            count = len(self.crew.all)
            self.log.say(f"{cause}shutting down {count} process{'' if count == 1 else 'es'}")
            self._report.stopping(self)
            self.site.close_listeners()

    def _kill(self) -> None:
        if not self.stopping:
            self._stop()
        self._code = self._code or 1
        for each in self.crew.all:
            each.asked, each.failed = monotonic(), True
            each.send(signal.SIGKILL)

    def _reload(self) -> None:
        if self.stopping:
            return
        try:
            options = self.site.read_options()
        except Exception as error:
            self._report.reloading(self)
            self._abort_reload(str(error))
            return
        self.site.restore_files(self._newest_serves())
        self.generation += 1
        self.reload.begin(self.options if not self.reload.running else self.reload.options, self.wanted)
        self._report.reloading(self)
        self.options, self.wanted = options, wanted_by(options)
        self.backoff.reset()
        self.log.say(f"reload: starting generation {self.generation}")
        for each in self.crew.all:
            if each.state == "starting":
                self._drain(each, monotonic())
            elif each.state == "ready":
                each.outdated = "reload"
                self.counts["restarts"]["reload"] += 1

    def _abort_reload(self, cause: str) -> None:
        if self.reload.running:
            self.options, self.wanted = self.reload.options, self.reload.wanted
        self.reload.fail(cause)
        self.counts["reloads"]["failed"] += 1
        for each in self.crew.all:
            if each.outdated == "reload":
                each.outdated = ""
        ready = len(self.crew.in_state("ready"))
        serving = "1 process goes" if ready == 1 else f"{ready} processes go"
        self.log.say(f"reload failed; {serving} on serving: {cause}", "ERROR")
        if not self._newest_serves():
            self.site.withdraw_files()
        if self.complete:
            self._report.ready(self)

    def _newest_serves(self) -> bool:
        return any(each.generation == self.generation for each in self.crew.in_state("ready"))

    def _reopen_logs(self) -> None:
        self.log.reopen()
        for each in self.crew.all:
            if each.state != "starting":
                each.send(signal.SIGUSR1)

    def _resize(self, by: int) -> None:
        if not self.stopping:
            self.wanted = min(MOST_PROCESSES, max(1, self.wanted + by))
            self.log.say("1 process is wanted" if self.wanted == 1 else f"{self.wanted} processes are wanted")

    def _replace(self) -> None:
        self._report.publish(self)
        self.log.say(f"the supervisor was not replaced: {replace_supervisor(self)}", "ERROR")
