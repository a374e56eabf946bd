"""The worker class, with the methods that gunicorn calls in the arbiter and in the worker process.

The constructor and `check_config` run in the arbiter, which must not be monkey-patched; everything else runs in the
worker.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from gunicorn.errors import AppImportError
from gunicorn.workers import base

from ..errors import LoadError, OptionError
from .checks import check_configuration
from .patching import patch
from .sitetable import table_of

if TYPE_CHECKING:
    from .serving import Serving

__all__ = ["Worker"]


class Worker(base.Worker):  # type: ignore[misc]  # gunicorn has no types
    """Serves the application with this package's server and balancer on the listeners of gunicorn's arbiter.

    Processes, listeners, TLS files, hooks and logs are configured in gunicorn; the handling of requests is configured
    by this package's settings (`INTRALB_` variables, and `intralb.toml` in the working directory).
    """

    _serving: Serving | None = None
    _interrupted = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Create a worker in the arbiter, before the fork, with the arguments of gunicorn's base class."""
        super().__init__(*arguments, **named)
        self.site_table = table_of(os.getpid())

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Raise RuntimeError, which gunicorn prints, for settings that cannot work; warn of settings without effect."""
        check_configuration(cfg, log)

    def init_process(self) -> None:
        """Monkey-patch this process, load the application, and serve; return when the worker should exit."""
        self._handle_early()
        # Start the arbiter's clock: if the import of the application takes longer than `timeout`, the worker is killed.
        self.notify()
        early = frozenset(sys.modules)
        self.sockets: list[Any] = patch(self.sockets)
        from .serving import Serving

        self._serving = Serving(self, early)
        super().init_process()

    def _handle_early(self) -> None:
        """Install handlers before patching, because the handlers inherited from the arbiter would lose signals."""
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.signal(signal.SIGABRT, self.handle_abort)
        for number in (signal.SIGQUIT, signal.SIGINT):
            signal.signal(number, self.handle_quit)

    def init_signals(self) -> None:
        """Install the signal handlers that apply until the worker serves; `Serving` then adds its own handlers."""
        super().init_signals()
        # Do not write signals to gunicorn's pipe: nothing reads the pipe, so it would be full after 65,536 signals.
        signal.set_wakeup_fd(-1)
        if self._serving is not None:
            self._serving.has_signals()

    def load_wsgi(self) -> None:
        """Read the settings and load the application; if a setting is invalid, gunicorn prints the error and halts."""
        try:
            self._read_settings()
        except (LoadError, OptionError) as error:
            raise AppImportError(f"\nError: {error}\n") from None
        super().load_wsgi()

    def _read_settings(self) -> None:
        if self._serving is not None:
            self._serving.read_settings(dict(os.environ))

    def run(self) -> None:
        """Serve until a signal, `max_requests` or the arbiter's death shuts this worker down."""
        if self._serving is not None:
            try:
                self._serving.run()
            except OptionError as error:
                raise AppImportError(f"\nError: {error}\n") from None

    # Signals. While the worker serves, `Serving` handles signals first.

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGTERM: shut down, or exit immediately if the application is not loaded yet."""
        self._end_other_process(sig)
        self.alive = False
        if not self.booted:
            sys.exit(0)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGQUIT and SIGINT: call the hook `worker_int`, shut down, and cut running requests immediately."""
        self._end_other_process(sig)
        self.alive = False
        self._call_worker_int()
        if not self.booted:
            sys.exit(0)
        if self._serving is not None:
            self._serving.force()

    def _end_other_process(self, sig: int) -> None:
        """Let the signal end this process if it is not the worker, but a process that the application has forked."""
        if os.getpid() != self.pid:
            signal.signal(sig, signal.SIG_DFL)
            os.kill(os.getpid(), sig)

    def _call_worker_int(self) -> None:
        if not self._interrupted:
            self._interrupted = True
            self.cfg.worker_int(self)

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGUSR1: reopen the log files of gunicorn and of `logging`."""
        if self._serving is not None:
            self._serving.reopen_logs()

    def handle_winch(self, sig: int, fname: FrameType | None) -> None:
        """Handle SIGWINCH: do nothing."""

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGABRT: the arbiter has found that the event loop, or the import of the application, is blocked."""
        self._end_other_process(sig)
        self.alive = False
        if self._serving is not None:
            self._serving.write_stacks()
        self.cfg.worker_abort(self)
        if self._serving is not None:
            self._serving.leave(1)
        sys.exit(1)
