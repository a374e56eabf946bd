"""gunicorn's features for each request: the hooks `pre_request` and `post_request`, the access log, and `max_requests`.

statsd is a logger class of gunicorn, so it counts the requests that are passed to the access log. The hooks run in the
request's slot; the log is written in a greenlet of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, Final

from gunicorn.glogging import Logger

from ..aborts.safepoints import calls_application
from ..config.sources import Settings
from ..http.filewrapper import FileWrapper
from ..hub.log import HubLog
from ..policy.cannedresponses import CannedResponse
from ..policy.lifecycle import Outcome
from ..pool.exchange import Application, StartResponse
from ..pool.job import Job
from ..pool.joblog import JobLog
from .settings import LOOPBACK, trusts_loopback_only
from .views import RequestView, ResponseView

__all__ = ["RequestLog", "called"]

_RESPONSE: Final = "intralb.gunicorn_response"
"""The environ key for the response's view, which the access log reads."""

_CLIENT_LEFT: Final = "499 Client Closed Request"
"""nginx's status for a client that left before there was a response; it only appears in the log."""

_SIMPLE: Final = (str, int, bool, tuple)
"""Types of those environ values that the log keeps; other objects must be freed in the request's greenlet."""


def called(application: Application, worker: Any, settings: Settings) -> Application:
    """Return the application that the slots call: unchanged, or wrapped if gunicorn has to see its calls."""
    wrapped = application
    if _has_hook(worker.cfg, "pre_request") or _has_hook(worker.cfg, "post_request") or _logs(worker):
        wrapped = _Observed(wrapped, worker)
    if not worker.cfg.keepalive:
        wrapped = _closing(wrapped)
    if not settings.options.trusted_proxies and trusts_loopback_only(worker.cfg) and worker.cfg.forwarded_allow_ips:
        wrapped = _Schemed(wrapped, worker.cfg)
    return wrapped


def _has_hook(cfg: Any, name: str) -> bool:
    setting = cfg.settings[name]
    return setting.get() is not type(setting)().get()


def _logs(worker: Any) -> bool:
    """Return whether gunicorn logs requests, to a log or to statsd."""
    cfg = worker.cfg
    if type(worker.log).access is not Logger.access:
        return True
    syslog = cfg.syslog and not cfg.disable_redirect_access_to_syslog
    return bool(cfg.accesslog or cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json or syslog)


class _Schemed:
    """An application that sees the scheme reported by a proxy on the same machine, which gunicorn trusts by default."""

    def __init__(self, application: Application, cfg: Any) -> None:
        self._application = application
        self._secure = {
            f"HTTP_{name.upper().replace('-', '_')}": value for name, value in cfg.secure_scheme_headers.items()
        }
        self._peers = LOOPBACK | {""}

    @calls_application
    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Call the application."""
        if environ["REMOTE_ADDR"] in self._peers:
            said = [environ[key] == value for key, value in self._secure.items() if key in environ]
            if said and all(said):
                environ["wsgi.url_scheme"] = "https"
        return self._application(environ, start_response)


def _closing(application: Application) -> Application:
    """Return the application with `Connection: close` added to each response, for `keepalive` 0."""

    @calls_application
    def call(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        def start(status: Any, headers: Any, exc_info: Any = None) -> Callable[[Any], object]:
            return start_response(status, [*headers, ("Connection", "close")], exc_info)

        return application(environ, start)

    return call


class _Observed:
    """An application whose requests and responses are passed to gunicorn's hooks and access log."""

    def __init__(self, application: Application, worker: Any) -> None:
        self._application = application
        self._worker = worker
        self._before = worker.cfg.pre_request if _has_hook(worker.cfg, "pre_request") else None
        self._after = worker.cfg.post_request if _has_hook(worker.cfg, "post_request") else None
        self._logs = _logs(worker)

    @calls_application
    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Call the application between the hooks."""
        response = ResponseView(RequestView(environ))
        if self._logs:
            # `RequestLog` removes this view, which refers back to the environ.
            environ[_RESPONSE] = response
        ended = self._ending(environ, response)
        try:
            if self._before is not None:
                self._before(self._worker, response.req)
            result: Any = self._application(environ, response.observed(start_response))
            body: Iterable[bytes] = self._counted(result, response, ended)
            return body
        except BaseException:
            ended()
            raise

    def _ending(self, environ: dict[str, Any], response: ResponseView) -> Callable[[], None]:
        """Return a function whose first call calls `post_request`; later calls do nothing."""
        calls = [] if self._after is None else [self._after]

        @calls_application
        def ended() -> None:
            if calls:
                try:
                    calls.pop()(self._worker, response.req, environ, response)
                except Exception:
                    self._worker.log.exception("Exception in post_request hook")

        return ended

    def _counted(self, result: Any, response: ResponseView, ended: Callable[[], None]) -> Any:
        """Return the body in a form that counts its bytes; a list or file that is sent as a whole keeps its form."""
        if type(result) is FileWrapper and (stretch := result.stretch()) is not None:
            response.add(stretch[2])
            ended()
            return result
        if type(result) is list:
            response.add(sum(len(part) for part in result if isinstance(part, bytes)))
            return result if self._after is None else _Parts(result, ended)
        return _Body(result, response, ended)


class _Parts(list[Any]):
    """The parts of a body, all of which exist already, so that the response does not count as a stream."""

    def __init__(self, parts: list[Any], ended: Callable[[], None]) -> None:
        super().__init__(parts)
        self._ended = ended

    @calls_application
    def close(self) -> None:
        """End the request."""
        self._ended()


class _Body:
    """The body of a response; `ended` is called when the server closes the body."""

    def __init__(self, result: Any, response: ResponseView, ended: Callable[[], None]) -> None:
        self._result = result
        self._response = response
        self._ended = ended

    @calls_application
    def __iter__(self) -> Iterator[Any]:
        for part in self._result:
            self._response.add(len(part))
            yield part

    @calls_application
    def close(self) -> None:
        """Close the application's body, and end the request."""
        try:
            if hasattr(self._result, "close"):
                self._result.close()
        finally:
            self._ended()


class RequestLog(JobLog):
    """Counts the requests that have run, and passes those that have ended to gunicorn's access log.

    `stop` is called once `max_requests` requests have run; `earlier` is this package's own job log.
    """

    def __init__(self, worker: Any, earlier: JobLog | None, stop: Callable[[], None]) -> None:
        super().__init__("text")
        self.records = HubLog(lambda level, text: worker.log.log(level, text) if text else None)
        self._worker = worker
        self._earlier = earlier
        self._stop = stop
        self._logs = _logs(worker)

    def ended(self, job: Job, outcome: Outcome, reason: str | None) -> None:
        """Count and log a job that has just ended; never waits."""
        if self._earlier is not None:
            self._earlier.ended(job, outcome, reason)
        if job.started is not None:
            self._count()
        if self._logs:
            seconds = 0.0 if job.ended is None else job.ended - job.arrived
            self._log(job.environ, job.exchange.status or _CLIENT_LEFT, seconds)

    def turned_away(self, environ: dict[str, Any], answer: CannedResponse) -> None:
        """Log a request that was rejected before a job was created for it; never waits."""
        if self._earlier is not None:
            self._earlier.turned_away(environ, answer)
        if self._logs:
            self._log(environ, answer.status, 0.0)

    def malformed(self, environ: dict[str, Any], answer: CannedResponse, client: str, request_id: str) -> None:
        """Log a malformed request; gunicorn's access log has no line for it, as in gunicorn's own workers."""
        if self._earlier is not None:
            self._earlier.malformed(environ, answer, client, request_id)

    def _count(self) -> None:
        worker = self._worker
        worker.nr += 1
        if worker.nr >= worker.max_requests and worker.alive:
            self.records.record(logging.INFO, lambda: "Autorestarting worker after current request.")
            self._stop()

    def _log(self, environ: dict[str, Any], status: str, seconds: float) -> None:
        response: ResponseView | None = environ.pop(_RESPONSE, None)
        kept = {key: value for key, value in environ.items() if type(value) in _SIMPLE}
        view = ResponseView(RequestView(kept))
        if response is not None and response.status == status:
            view.take(response)
        else:
            view.status = status
        self.records.record(logging.INFO, lambda: self._write(view, kept, timedelta(seconds=seconds)))

    def _write(self, view: ResponseView, environ: dict[str, Any], duration: timedelta) -> str:
        """Write to the access log, in the greenlet of this log; return '', as nothing goes to gunicorn's error log."""
        self._worker.log.access(view, view.req, environ, duration)
        return ""
