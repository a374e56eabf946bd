"""gunicorn's features for each request: the hooks `pre_request` and `post_request`, the access log, and `max_requests`.

gunicorn implements statsd as a logger class, so statsd counts the requests that are passed to the access log. The hooks
run in the request's slot; a separate greenlet writes the log.
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
"""The environ key of the `ResponseView` that is passed to the access log."""

_CLIENT_LEFT: Final = "499 Client Closed Request"
"""nginx's status for a client that disconnected before the response began; this status appears only in the log."""

_SIMPLE: Final = (str, int, bool, tuple)
"""Types of the environ values that are passed to the log; other objects must be freed in the request's greenlet."""


def called(application: Application, worker: Any, settings: Settings) -> Application:
    """Return the application that the slots call: unchanged, or wrapped if gunicorn's settings require a wrapper."""
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
    """Return whether gunicorn records requests, in an access log or in statsd."""
    cfg = worker.cfg
    if type(worker.log).access is not Logger.access:
        return True
    syslog = cfg.syslog and not cfg.disable_redirect_access_to_syslog
    return bool(cfg.accesslog or cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json or syslog)


class _Schemed:
    """Sets the URL scheme to the scheme that a proxy on the same machine reports, as gunicorn does by default."""

    def __init__(self, application: Application, cfg: Any) -> None:
        self._application = application
        self._secure = {
            f"HTTP_{name.upper().replace('-', '_')}": value for name, value in cfg.secure_scheme_headers.items()
        }
        self._peers = LOOPBACK | {""}

    @calls_application
    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Set `wsgi.url_scheme` to https if the proxy reports a secure scheme, and call the application."""
        if environ["REMOTE_ADDR"] in self._peers:
            said = [environ[key] == value for key, value in self._secure.items() if key in environ]
            if said and all(said):
                environ["wsgi.url_scheme"] = "https"
        return self._application(environ, start_response)


def _closing(application: Application) -> Application:
    """Return a wrapper that adds `Connection: close` to each response of the application, as `keepalive=0` requires."""

    @calls_application
    def call(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        def start(status: Any, headers: Any, exc_info: Any = None) -> Callable[[Any], object]:
            # The head of a 101 response is sent as it is, and its field `Connection` must contain only `Upgrade`.
            added = [] if str(status)[:3] == "101" else [("Connection", "close")]
            return start_response(status, [*headers, *added], exc_info)

        return application(environ, start)

    return call


class _Observed:
    """Calls an application, and passes its requests and responses to gunicorn's hooks and access log."""

    def __init__(self, application: Application, worker: Any) -> None:
        self._application = application
        self._worker = worker
        self._before = worker.cfg.pre_request if _has_hook(worker.cfg, "pre_request") else None
        self._after = worker.cfg.post_request if _has_hook(worker.cfg, "post_request") else None
        self._logs = _logs(worker)

    @calls_application
    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Call `pre_request` and the application; `post_request` is called when the response's body ends."""
        response = ResponseView(RequestView(environ))
        if self._logs:
            # The view and the environ refer to each other until `RequestLog` removes the view.
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
        """Return a function that calls `post_request` the first time, and does nothing when it is called again."""
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
        """Return a body whose bytes are counted; a list or a file keeps its type, so that it is sent as a whole."""
        if type(result) is FileWrapper and (stretch := result.stretch()) is not None:
            response.add(stretch[2])
            ended()
            return result
        if type(result) is list:
            response.add(sum(len(part) for part in result if isinstance(part, bytes)))
            return result if self._after is None else _Parts(result, ended)
        return _Body(result, response, ended)


class _Parts(list[Any]):
    """A list with all parts of a body; the server does not treat a response as a stream if its body is a list."""

    def __init__(self, parts: list[Any], ended: Callable[[], None]) -> None:
        super().__init__(parts)
        self._ended = ended

    @calls_application
    def close(self) -> None:
        """Call `post_request`."""
        self._ended()


class _Body:
    """A response's body that counts its bytes; `ended` is called when the server closes the body."""

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
        """Close the application's body, and then call `post_request`, if that hook is set."""
        try:
            if hasattr(self._result, "close"):
                self._result.close()
        finally:
            self._ended()


class RequestLog(JobLog):
    """Counts the requests that have run, and passes all ended requests to gunicorn's access log.

    `stop` is called when `max_requests` requests have run. Each call is also passed to `earlier`, this package's job
    log.
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
        """Log a malformed request in this package's log; like gunicorn's workers, write no line to the access log."""
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
        """Write a line to the access log, in a separate greenlet; return '', so that the error log gets no line."""
        self._worker.log.access(view, view.req, environ, duration)
        return ""
