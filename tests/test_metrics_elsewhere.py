"""The metrics reach other monitoring: a registry of prometheus_client, statsd, DogStatsD, and an OTLP collector."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from intralb_gevent import OptionError
from intralb_gevent.integrations import push, statsd
from intralb_gevent.observe.metrics.readings import from_histogram
from intralb_gevent.observe.stats import Histogram

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def test_a_collector_in_a_registry(balance) -> None:
    client = pytest.importorskip("prometheus_client")
    from intralb_gevent.integrations.prometheus import Collector

    registry = client.CollectorRegistry()
    balancer = balance(hello)
    registry.register(Collector(balancer))
    b"".join(balancer({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: lambda data: None))
    assert registry.get_sample_value("intralb_requests_total", {"lane": "general", "outcome": "completed"}) == 1
    assert registry.get_sample_value("intralb_run_seconds_bucket", {"lane": "general", "le": "60.0"}) == 1
    text = client.generate_latest(registry).decode()
    assert 'intralb_slots_max{lane="general"} 1000.0' in text
    assert "process_open_fds" not in text
    with pytest.raises(OptionError, match="balancer"):
        Collector(hello)


# statsd.


class Receiver:
    """A statsd server."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(10)
        self.port = self._socket.getsockname()[1]
        self.lines: list[str] = []

    def until(self, *wanted: str) -> list[str]:
        """Receive until a line with each of these beginnings has come, and return all lines."""
        while not all(any(line.startswith(beginning) for line in self.lines) for beginning in wanted):
            datagram = self._socket.recv(65536)
            assert len(datagram) <= statsd.DATAGRAM_BYTES
            self.lines += datagram.decode().splitlines()
        return self.lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def test_statsd_gets_increases_and_gauges(serve_app, receiver) -> None:
    server = serve_app(flags=("--push-metrics", f"statsd://127.0.0.1:{receiver.port}"))
    assert server.get("/") == 200
    server.process.terminate()
    # The last metrics are sent at the end of the shutdown.
    lines = receiver.until(
        "intralb.requests.general.completed:1|c", "intralb.slots_max.general:1000|g", "process.open_fds.process0:"
    )
    assert server.ended() == 0
    assert not [line for line in lines if "intralb.requests.general.failed" in line]


def test_dogstatsd_gets_tags(balance, receiver) -> None:
    balancer = balance(hello)
    b"".join(balancer({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: lambda data: None))
    pushing = push.MetricsPush(balancer, f"dogstatsd://localhost:{receiver.port}", process="3")
    pushing.start()
    pushing.stop()
    receiver.until(
        "intralb.requests:1|c|#lane:general,outcome:completed",
        "intralb.slots_max:1000|g|#lane:general,process:3",
        "intralb.run_seconds.count:1|c|#lane:general",
    )


def test_only_increases_are_sent_and_a_histogram_by_its_quantiles() -> None:
    histogram = Histogram()
    histogram.add(0.01)
    first = {"intralb_run_seconds": {"/a/*": from_histogram(histogram)}, "intralb_sent_bytes_total": {"": 100.0}}
    histogram.add(0.5)
    second = {"intralb_run_seconds": {"/a/*": from_histogram(histogram)}, "intralb_sent_bytes_total": {"": 1e12 + 100}}
    assert list(statsd.lines(second, first, tagged=False)) == [
        "intralb.run_seconds.count._a__:1|c",
        "intralb.run_seconds.sum._a__:0.5|c",
        "intralb.run_seconds.p50._a__:0.5|g",
        "intralb.run_seconds.p99._a__:0.5|g",
        "intralb.sent_bytes:1000000000000|c",
    ]
    assert list(statsd.lines(second, second, tagged=False)) == []


def test_a_datagram_has_whole_lines() -> None:
    lines = [f"{number:04}" * 30 for number in range(100)]
    batches = list(statsd.datagrams(lines))
    assert [line for batch in batches for line in batch.decode().split("\n")] == lines
    assert max(map(len, batches)) <= statsd.DATAGRAM_BYTES


def test_a_receiver_that_does_not_exist_is_logged_and_disturbs_nothing(serve_app) -> None:
    server = serve_app(flags=("--push-metrics", "statsd://nowhere.invalid:8125"))
    assert server.get("/") == 200
    server.process.terminate()
    assert server.ended() == 0
    assert "the metrics cannot be sent to statsd://nowhere.invalid:8125: socket.gaierror" in server.said


@pytest.mark.parametrize("target", ["statsd", "statsd://host", "http://host:1", "statsd://host:99999", ""])
def test_targets_that_are_not_allowed(balance, target: str) -> None:
    with pytest.raises(OptionError, match=r"push_metrics: .* it must be otlp, statsd://HOST:PORT or"):
        push.MetricsPush(balance(hello), target)


# OTLP.


class Collector(http.server.BaseHTTPRequestHandler):
    """An OpenTelemetry collector that keeps the requests."""

    received: list[Any] = []  # noqa: RUF012

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.path, ExportMetricsServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def test_a_collector_gets_otlp(serve_app, monkeypatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
        server = serve_app(flags=("--push-metrics", "otlp"))
        assert server.get("/") == 200
        server.process.terminate()
        assert server.ended() == 0
        collector.shutdown()
    path, request = Collector.received[-1]
    (resource,) = request.resource_metrics
    attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert (path, attributes["service.name"]) == ("/v1/metrics", "shop")
    metrics = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    requests = metrics["intralb.requests"].sum
    assert requests.is_monotonic
    completed = [point for point in requests.data_points if point.attributes[1].value.string_value == "completed"]
    assert completed[0].as_double == 1 or completed[0].as_int == 1
    durations = metrics["intralb.request_duration_seconds"]
    assert (durations.unit, durations.histogram.data_points[0].count) == ("s", 1)
    assert sum(durations.histogram.data_points[0].bucket_counts) == 1
    assert 7.5 in durations.histogram.data_points[0].explicit_bounds
    assert metrics["intralb.saturation_ratio"].gauge.data_points


def test_an_exemplar_reaches_otlp() -> None:
    otlp = pytest.importorskip("intralb_gevent.integrations.otlp")
    from intralb_gevent.observe.stats import Exemplar

    histogram = Histogram()
    histogram.add(0.2)
    name, key = "intralb_request_duration_seconds", "general"
    readings = {name: {key: from_histogram(histogram)}}
    data = otlp.metrics_data(readings, {name: {key: {30: Exemplar(0.2, 1.5, "trace_id", TRACE)}}}, None, 0, 1)
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    (exemplar,) = metric.data.data_points[0].exemplars
    assert (exemplar.trace_id, exemplar.value, exemplar.time_unix_nano) == (int(TRACE, 16), 0.2, 1_500_000_000)
