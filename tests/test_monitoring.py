"""OpenTelemetry's and Sentry's packages report spans and events for requests that were ended early."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

HANDLERS = """
import json, time

def ok():
    pass

def error():
    raise ValueError("on purpose")

def waits():
    time.sleep(30)

def computes():
    while True:
        pass

def no_session():
    from intralb_gevent import current_session
    current_session()

HANDLERS = {"/ok": ok, "/error": error, "/waits": waits, "/computes": computes, "/no-session": no_session}

def connect(worker_id):
    raise ConnectionError("no database today")

def stream(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"begun"
    time.sleep(30)

def handler(environ, start_response):
    if environ["PATH_INFO"] == "/stream":
        return stream(environ, start_response)
    HANDLERS[environ["PATH_INFO"]]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]

def app(environ, start_response):
    if environ["PATH_INFO"] == "/report":
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(report()).encode()]
    return application(environ, start_response)
"""

SPANS = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

def report():
    def shown(span):
        code = span.attributes.get("http.status_code") or span.attributes.get("http.response.status_code")
        path = span.attributes.get("http.target") or span.attributes.get("url.path")
        return [path, span.status.status_code.name, span.status.description, code]
    return [shown(span) for span in exporter.get_finished_spans()]
"""

OUTGOING = """
def outgoing():
    # As the instrumentation of a library for requests does.
    span = trace.get_tracer("client").start_as_current_span(
        "GET", kind=trace.SpanKind.CLIENT, attributes={"http.method": "GET"}
    )
    names = {"__name__": "opentelemetry.instrumentation.client", "manager": span, "wait": time.sleep}
    exec("with manager as span: wait(30)", names)

HANDLERS["/outgoing"] = outgoing
"""

WSGI = """
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
application = OpenTelemetryMiddleware(handler)
"""

FLASK = """
import flask
from opentelemetry.instrumentation.flask import FlaskInstrumentor

application = flask.Flask("myapp")
FlaskInstrumentor().instrument_app(application)

@application.get("/<name>")
def view(name):
    HANDLERS["/" + name]()
    return "ok"
"""

DJANGO = """
import django
from django.conf import settings
from opentelemetry.instrumentation.django import DjangoInstrumentor

settings.configure(ROOT_URLCONF="myapp", ALLOWED_HOSTS=["*"], SECRET_KEY="x", MIDDLEWARE=[], LOGGING_CONFIG=None)
DjangoInstrumentor().instrument()

from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

def view(request, name):
    HANDLERS["/" + name]()
    return HttpResponse("ok")

urlpatterns = [path("<name>", view)]
application = get_wsgi_application()
"""

SENTRY = """
import sentry_sdk
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware

seen = []

def note(event, hint):
    seen.append(event["exception"]["values"][-1]["type"])

sentry_sdk.init("http://key@127.0.0.1:9/1", before_send=note)
application = SentryWsgiMiddleware(handler)

def report():
    return seen
"""

DEADLINE = ("--request-timeout-seconds", "0.5", "--db-init-func", "myapp:connect")


def report(served: Any) -> list[Any]:
    known: list[Any] = json.loads(served.get("/report").body)
    return known


@pytest.mark.parametrize("conventions", ["", "http"], ids=["old names", "new names"])
@pytest.mark.parametrize("framework", ["wsgi", "flask", "django"])
def test_opentelemetry_has_a_span_of_each_request(serve_program, framework: str, conventions: str) -> None:
    pytest.importorskip(f"opentelemetry.instrumentation.{framework}")
    text = HANDLERS + SPANS + {"wsgi": WSGI, "flask": FLASK, "django": DJANGO}[framework]
    served = serve_program(text, *DEADLINE, OTEL_SEMCONV_STABILITY_OPT_IN=conventions)
    paths = ["/ok", "/waits", "/computes", "/no-session"]
    assert [served.get(path).status for path in paths] == [200, 504, 504, 503]
    served.wait_until(lambda: len(report(served)) == len(paths))
    assert report(served) == [
        ["/ok", "UNSET", None, 200],
        ["/waits", "ERROR", "timed_out", 504],
        ["/computes", "ERROR", "timed_out", 504],
        ["/no-session", "ERROR", "failed", 503],
    ]
    assert served.get("/ok").status == 200
    for complaint in ("Calling end() on an ended span", "on ended span", "Failed to detach context"):
        assert complaint not in served.said


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

TRACES = """
def report():
    return [[f"{span.context.trace_id:032x}", span.status.status_code.name] for span in exporter.get_finished_spans()]
"""


def test_a_trace_that_came_with_the_request_continues_after_an_abort(serve_program) -> None:
    pytest.importorskip("opentelemetry.instrumentation.wsgi")
    served = serve_program(HANDLERS + SPANS + TRACES + WSGI, *DEADLINE)
    assert served.get("/waits", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01").status == 504
    served.wait_until(lambda: report(served))
    assert report(served) == [[TRACE, "ERROR"]]


def test_a_response_that_is_cut_has_a_span_that_says_so(serve_program) -> None:
    pytest.importorskip("opentelemetry.instrumentation.wsgi")
    served = serve_program(HANDLERS + SPANS + WSGI, "--stream-idle-timeout-seconds", "0.2")
    with pytest.raises(http.client.IncompleteRead):
        served.get("/stream")
    served.wait_until(lambda: report(served))
    assert report(served) == [["/stream", "ERROR", "timed_out", 200]]


def test_the_span_of_an_outgoing_request_is_not_taken_for_the_servers(serve_program) -> None:
    pytest.importorskip("opentelemetry.instrumentation.wsgi")
    served = serve_program(HANDLERS + SPANS + OUTGOING + WSGI, *DEADLINE)
    assert served.get("/outgoing").status == 504
    served.wait_until(lambda: len(report(served)) == 2)
    assert report(served) == [[None, "UNSET", None, None], ["/outgoing", "ERROR", "timed_out", 504]]


def test_a_request_that_never_ran_has_no_span(serve_program) -> None:
    pytest.importorskip("opentelemetry.instrumentation.wsgi")
    served = serve_program(HANDLERS + SPANS + WSGI, *DEADLINE)
    assert served.get("/ok").status == 200
    assert len(report(served)) == 1


def test_sentry_has_an_event_of_each_request_that_was_cut(serve_program) -> None:
    pytest.importorskip("sentry_sdk")
    # Building an event blocks the event loop, for which the next request has to wait in time.
    served = serve_program(HANDLERS + SENTRY, *DEADLINE, "--request-timeout-seconds", "2")
    assert [served.get(path).status for path in ("/ok", "/waits", "/computes")] == [200, 504, 504]
    served.wait_until(lambda: report(served) == ["DeadlineExceeded", "DeadlineExceeded"])
