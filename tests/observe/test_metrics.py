"""Tests of /metrics: its values after known requests, its formats, and the programs that read it."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket

from intralb_gevent.observe.metrics.catalogue import METRICS, METRICS_BY_NAME
from intralb_gevent.observe.metrics.exposition import BOUNDS, OPENMETRICS, TEXT, content_type, write
from intralb_gevent.observe.metrics.metric import Metric, growing, of_site
from intralb_gevent.observe.metrics.readings import from_histogram, total
from intralb_gevent.observe.stats import Histogram

START_SECONDS = 25.0
"""Seconds within which Prometheus must have started and scraped."""

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
"""The Accept field that Prometheus sends."""


def some_requests(laned, fetch) -> None:
    for path in ("/", "/", "/none", "/fail", "/lane1/", "/lane2/wait/0.15"):
        fetch(laned, path, f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01")


def test_the_metrics_after_known_requests(laned, fetch, samples) -> None:
    some_requests(laned, fetch)
    ended = samples("intralb_requests_total")
    assert (ended["general completed"], ended["general failed"], ended["/lane1/* completed"]) == (3, 1, 1)
    received = samples("intralb_requests_received_total")
    assert sum(received.values()) == sum(ended.values()) == 6
    codes = samples("intralb_responses_total")
    assert codes == {"general 200": 2, "general 404": 1, "general 500": 1, "/lane1/* 200": 1, "/lane2/* 200": 1}
    assert samples("intralb_request_duration_seconds_count")["/lane2/*"] == 1
    buckets = samples("intralb_request_duration_seconds_bucket")
    assert (buckets["/lane2/* 0.1"], buckets["/lane2/* +Inf"]) == (0, 1)
    assert 0.15 <= samples("intralb_slot_busy_seconds_total")["/lane2/*"] < 5
    assert samples("intralb_connections_accepted_total") == {"": 6}
    assert samples("intralb_connections_closed_total") == {"other": 6}
    assert samples("intralb_received_bytes_total")[""] > 6 * len(TRACE)
    assert samples("intralb_sent_bytes_total")[""] > 6 * len("hello")
    assert samples("intralb_ready") == {"": 1}


def test_requests_that_run_and_wait(laned, fetch, samples, eventually) -> None:
    clients = [gevent.spawn(fetch, laned, "/lane1/wait/0.5") for _ in range(3)]
    eventually(lambda: samples("intralb_slots_running")["/lane1/*"] == 3)
    busy = samples("intralb_slot_busy_seconds_total")["/lane1/*"]
    assert samples("intralb_connections")["answering"] == 3
    assert samples("intralb_slot_busy_seconds_total")["/lane1/*"] > busy
    gevent.joinall(clients)


def test_refusals_have_a_reason_and_a_priority(balance, serve, fetch, eventually) -> None:
    from intralb_gevent.observe.admin import AdminServer

    def application(environ, start_response):
        gevent.sleep(0.3)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    options = {"max_concurrent_per_router": 1, "queue_size": 0, "max_workers": 1, "client_key": "off"}
    server = serve(application, priority_func=lambda environ: environ["HTTP_PRIORITY"], **options)
    with AdminServer(("127.0.0.1", 0), server.balancer) as admin:
        admin.start()
        running = gevent.spawn(fetch, server, "/", "Priority: critical")
        eventually(lambda: server.balancer.snapshot().running)
        assert fetch(server, "/", "Priority: sheddable")[0]["status"] == "503"
        text = fetch(admin, "/metrics")[1]
        running.get()
    assert 'intralb_rejected_total{lane="general",priority="sheddable",reason="queue_full"} 1\n' in text
    assert 'intralb_requests_received_total{lane="general",priority="sheddable"} 1\n' in text
    assert 'intralb_responses_total{lane="general",code="503"} 1\n' in text


def test_malformed_requests_are_counted_by_code(laned, samples) -> None:
    with socket.create_connection(("127.0.0.1", laned.server_port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 400")
    assert samples("intralb_invalid_requests_total") == {"400": 1}


def test_promtool_has_no_complaint(laned, admin, fetch, program) -> None:
    some_requests(laned, fetch)
    text = fetch(admin, "/metrics")[1]
    checked = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_openmetrics_has_the_trace_of_a_slow_request(laned, admin, fetch) -> None:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    some_requests(laned, fetch)
    headers, text = fetch(admin, "/metrics", f"Accept: {ACCEPT}")
    assert headers["Content-Type"] == OPENMETRICS
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS} - {
        *("intralb_rejected", "intralb_worker_changes", "intralb_sessions", "intralb_sessions_max"),
        *("intralb_session_discards", "intralb_session_open_seconds", "intralb_invalid_requests"),
        *("intralb_process_restarts", "intralb_reloads", "intralb_connections_moved"),
        *("intralb_connections_returned", "intralb_connections_not_moved"),
    }
    exemplars = [
        (sample.labels["lane"], sample.labels["le"], sample.exemplar.labels)
        for sample in families["intralb_request_duration_seconds"].samples
        if sample.exemplar is not None
    ]
    assert exemplars == [("/lane2/*", "0.25", {"trace_id": TRACE})]


def test_without_a_trace_an_exemplar_has_the_request_id(laned, admin, fetch) -> None:
    fetch(laned, "/wait/0.15")
    text = fetch(admin, "/metrics", f"Accept: {ACCEPT}")[1]
    (exemplar,) = [line for line in text.splitlines() if "request_id" in line]
    assert 'le="0.25"} 1 # {request_id="' in exemplar


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        (ACCEPT, OPENMETRICS),
        ("application/openmetrics-text;q=0.5, text/plain", TEXT),
        ("application/openmetrics-text; q=x", TEXT),
    ],
)
def test_the_format_is_the_one_that_the_client_prefers(accept: str, kind: str) -> None:
    assert content_type(accept) == kind


def test_labels_are_escaped() -> None:
    metric = Metric(name="a_total", kind="counter", help="A", labels=("lane",), read=lambda source: ())
    assert write([metric], {"a_total": {'/a"b\\c': 1.0}}).endswith('a_total{lane="/a\\"b\\\\c"} 1.0\n')


def test_declarations_follow_prometheus_conventions() -> None:
    assert len(METRICS_BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.name.startswith(("intralb_", "process_"))
        assert not metric.help.endswith(".")
        assert set(metric.values or ()) <= set(metric.labels)


def test_the_sums_of_a_site() -> None:
    summed, largest = METRICS_BY_NAME["intralb_requests_total"], METRICS_BY_NAME["intralb_queue_oldest_seconds"]
    each, mean = METRICS_BY_NAME["process_open_fds"], METRICS_BY_NAME["intralb_saturation_ratio"]
    durations = METRICS_BY_NAME["intralb_run_seconds"]
    histogram = Histogram()
    histogram.add(0.02)

    def readings(process: str, count: float) -> dict:
        return {
            summed.name: {"general\ncompleted": count},
            largest.name: {"general": count},
            each.name: {process: count},
            mean.name: {"slots": count},
            durations.name: {"general": from_histogram(histogram)},
        }

    metrics = [summed, largest, each, mean, durations]
    left = growing(metrics, readings("2", 100))
    assert set(left) == {summed.name, durations.name}
    site = of_site(metrics, [readings("0", 1), readings("1", 3)], [left])
    assert site[summed.name] == {"general\ncompleted": 104}
    assert site[largest.name] == {"general": 3}
    assert site[each.name] == {"0": 1, "1": 3}
    assert site[mean.name] == {"slots": 2}
    assert site[durations.name] == total([{durations.name: {"general": from_histogram(histogram)}}] * 3)[durations.name]
    assert 'intralb_run_seconds_count{lane="general"} 3\n' in write(metrics, site)


def test_each_exported_bound_is_exact() -> None:
    assert set(BOUNDS) <= set(Histogram.BOUNDS)


@pytest.fixture
def scraping(program, tmp_path) -> Iterator[Callable[..., str]]:
    """Return a function that starts a Prometheus that scrapes a server, and returns the address of its API."""
    started: list[subprocess.Popen[bytes]] = []

    def start(server: Any, wanted: str) -> str:
        target = "127.0.0.1:" + str(json.loads(server.ready_file.read_text())["admin"]["port"])
        config = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
            "scrape_configs": [{"job_name": "shop", "static_configs": [{"targets": [target]}]}],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [program("prometheus"), "--config.file=prometheus.yml", f"--web.listen-address={address}"]
        command += ["--storage.tsdb.path=data", "--enable-feature=exemplar-storage"]
        with (tmp_path / "log").open("w") as log:
            started.append(subprocess.Popen(command, cwd=tmp_path, stderr=log))
        end = time.monotonic() + START_SECONDS
        while not query(address, wanted):
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.1)
        return address

    yield start
    for prometheus in started:
        prometheus.kill()
        prometheus.wait()


def test_a_real_prometheus_scrapes_a_server(serve_app, scraping) -> None:
    server = serve_app(flags=("--admin-bind", "127.0.0.1:0"))
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/wait/0.15")
    request.add_header("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")
    urllib.request.urlopen(request, timeout=10).close()
    completed = 'intralb_requests_total{outcome="completed"} > 0'
    address = scraping(server, completed)
    (found,) = answer(address, completed)
    assert (found["metric"]["lane"], found["metric"]["job"], found["value"][1]) == ("general", "shop", "1")
    assert query(address, "up")[0]["value"][1] == "1"
    (found,) = answer(address, "intralb_request_duration_seconds_bucket", "query_exemplars", "&start=0&end=9999999999")
    assert [each["labels"] for each in found["exemplars"]] == [{"trace_id": TRACE}]


def test_every_panel_and_variable_of_the_dashboard_has_values(serve_app, scraping) -> None:
    application = """
    import sqlite3

    def connect(worker_id):
        return sqlite3.connect(":memory:")

    @at
    def query():
        from intralb_gevent import current_session
        current_session()
    """
    flags = ("--admin-bind", "127.0.0.1:0", "--processes=2", "--db-init-func=served:connect")
    server = serve_app(application, flags=flags)
    assert server.get("/query") == 200, server.said
    # A rate needs two scrapes.
    address = scraping(server, "count_over_time(intralb_requests_total[1m]) > 2")
    panels, annotations = dashboard_expressions()
    empty = [each for each in panels if not answer(address, each)]
    # These metrics have no samples until the first event occurs.
    assert {re.findall(r"intralb_\w+", each)[0] for each in empty} == {
        *("intralb_rejected_total", "intralb_invalid_requests_total", "intralb_worker_changes_total"),
        *("intralb_session_discards_total", "intralb_connections_moved_total"),
        *("intralb_connections_returned_total", "intralb_connections_not_moved_total"),
    }
    for each in annotations:
        answer(address, each)
    found = [(name, label_values(address, name, selector)) for name, selector in dashboard_variables()]
    assert found == [("job", ["shop"]), ("lane", ["general"])]


def query(address: str, expression: str) -> list:
    """Return the result of a query, or an empty list while Prometheus cannot answer yet."""
    try:
        return answer(address, expression)
    except OSError:
        return []


def answer(address: str, expression: str, kind: str = "query", more: str = "") -> list:
    """Return the result of a query; raises HTTPError, an OSError, if the query is wrong."""
    url = f"http://{address}/api/v1/{kind}?query={urllib.parse.quote(expression)}{more}"
    with urllib.request.urlopen(url, timeout=10) as response:
        data = json.load(response)["data"]
        return data if kind == "query_exemplars" else data["result"]


def label_values(address: str, name: str, selector: str) -> list[str]:
    """Return the values of a label, as Grafana requests them for a variable."""
    match = urllib.parse.quote(selector)
    with urllib.request.urlopen(f"http://{address}/api/v1/label/{name}/values?match[]={match}", timeout=10) as response:
        return list(json.load(response)["data"])


def dashboard_variables() -> list[tuple[str, str]]:
    """Return the label and the selector of each variable of the dashboard."""
    board = json.loads((Path(__file__).parents[2] / "deploy/grafana.json").read_text())
    definitions = [each["definition"] for each in board["templating"]["list"] if "definition" in each]
    found = [re.fullmatch(r"label_values\((.*), (\w+)\)", each) for each in definitions]
    return [(each[2], each[1].replace("$job", ".*")) for each in found if each is not None]


def dashboard_expressions() -> tuple[list[str], list[str]]:
    """Return the expressions of the panels and of the annotations, with values for the dashboard's variables."""
    board = json.loads((Path(__file__).parents[2] / "deploy/grafana.json").read_text())
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    annotations = [each["expr"] for each in board["annotations"]["list"]]
    values = {"$__rate_interval": "1m", "$job": ".*", "$lane": ".*"}
    filled = [
        [re.sub(r"\$\w+", lambda name: values[name[0]], each) for each in texts] for texts in (panels, annotations)
    ]
    return filled[0], filled[1]


def test_connections_are_counted_by_what_they_do(laned, samples, eventually) -> None:
    def connected(sent: bytes) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", laned.server_port), timeout=10)
        client.sendall(sent)
        return client

    idle = connected(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    idle.recv(65536)
    clients = [
        connected(b"GET / HTTP/1.1\r\nHo"),
        connected(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"),
        connected(b"GET /wait/1 HTTP/1.1\r\nHost: x\r\n\r\n"),
    ]
    expected = {"idle": 1, "reading": 2, "answering": 1, "sending": 0}
    eventually(lambda: samples("intralb_connections") == expected)
    clients[0].sendall(b"st: x\r\n\r\n")
    clients[0].recv(65536)
    clients[1].close()
    eventually(lambda: samples("intralb_connections") == {**expected, "idle": 2, "reading": 0})
    for client in (idle, clients[0]):
        client.close()
    eventually(lambda: samples("intralb_connections_closed_total")["other"] == 3)
    clients[2].close()


def test_a_client_that_reads_slowly_is_counted(serve, fetch, eventually) -> None:
    from intralb_gevent.observe.admin import AdminServer

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x" * 16_000_000]

    server = serve(application)
    with AdminServer(("127.0.0.1", 0), server.balancer) as admin:
        admin.start()
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            eventually(lambda: 'intralb_connections{state="sending"} 1\n' in fetch(admin, "/metrics")[1])
            assert 'intralb_unsent_bytes{place="memory"} 0\n' not in fetch(admin, "/metrics")[1]
            while client.recv(1_000_000):
                pass
        assert 'intralb_connections{state="sending"} 0\n' in fetch(admin, "/metrics")[1]


def test_closed_connections_are_counted_by_cause(serve, eventually) -> None:
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    server = serve(application, header_timeout_seconds=0.1, keep_alive_seconds=0.1, max_connections=3)
    sent = [
        b"GET / HTTP/1.1\r\nHo",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ]
    clients = [socket.create_connection(("127.0.0.1", server.server_port), timeout=10) for _ in range(3)]
    for client, data in zip(clients, sent, strict=True):
        client.sendall(data)
    stats = server.balancer.intake.context.connections
    eventually(lambda: stats.closed == 3)
    assert stats.ends == {"header_timeout": 1, "keep_alive": 1}
    more = [socket.create_connection(("127.0.0.1", server.server_port), timeout=10) for _ in range(5)]
    eventually(lambda: stats.ends.get("limit", 0) >= 1)
    for client in [*clients, *more]:
        client.close()
    eventually(lambda: stats.closed == stats.accepted == 8)
