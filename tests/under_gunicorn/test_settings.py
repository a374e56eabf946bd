"""Tests of which settings apply under gunicorn, and of errors for invalid settings."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config

from intralb_gevent.errors import OptionError
from intralb_gevent.gunicorn.settings import graceful_seconds, settings_of
from tests.under_gunicorn.conftest import PATIENCE, PLAIN, Gunicorn

Start = Callable[..., Gunicorn]


def configured(**settings: Any) -> Config:
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    return cfg


def test_gunicorns_settings_are_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = settings_of(configured(), {}).options
    assert (options.keep_alive_seconds, options.max_connections, options.trusted_proxies) == (2, 1000, ())
    assert (options.max_target_bytes, options.max_headers, options.max_header_bytes) == (4094, 100, 32760)
    assert options.deadline_seconds == 30
    assert options.block_timeout_seconds == 0


def test_ours_count_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "intralb.toml").write_text("max_connections = 7\nqueue_size = 3\n")
    settings = settings_of(configured(), {"INTRALB_KEEP_ALIVE_SECONDS": "75", "INTRALB_QUEUE_SIZE": "4"})
    options = settings.options
    assert (options.keep_alive_seconds, options.max_connections, options.queue_size) == (75, 7, 4)


def test_proxies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = settings_of(configured(forwarded_allow_ips="10.0.0.2,10.0.0.1", proxy_protocol=True), {}).options
    assert options.proxy_protocol
    assert {"10.0.0.2", "10.0.0.1", "127.0.0.1", "unix"} <= set(options.trusted_proxies)
    assert settings_of(configured(forwarded_allow_ips="*"), {}).options.trusted_proxies == ("0.0.0.0/0", "::/0", "unix")


@pytest.mark.parametrize(
    ("graceful", "ours", "seconds"),
    [
        (30, {}, 28.0),
        (2, {}, 1.0),
        (0, {}, 0.0),
        (30, {"INTRALB_GRACEFUL_TIMEOUT_SECONDS": "5"}, 5.0),
        (4, {"INTRALB_GRACEFUL_TIMEOUT_SECONDS": "5"}, 2.0),
        (30, {"INTRALB_DRAIN_DELAY_SECONDS": "10"}, 18.0),
    ],
)
def test_requests_end_before_gunicorns_graceful_timeout(
    graceful: int, ours: dict[str, str], seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = configured(graceful_timeout=graceful)
    assert graceful_seconds(cfg, settings_of(cfg, ours)) == seconds


def test_a_drain_delay_must_leave_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"drain_delay_seconds: 30 is not allowed; it must be below 28, gunicorn's"):
        settings_of(configured(), {"INTRALB_DRAIN_DELAY_SECONDS": "30"})


@pytest.mark.parametrize(
    ("flags", "settings", "variables", "message"),
    [
        (("--preload",), "", {}, "preload_app: True is not allowed with this worker class"),
        (
            (),
            "queue_size = -1",
            {},
            "queue_size: -1 is not allowed; it must be a whole number of at least 0 (1e9 at most)",
        ),
        ((), "queu_size = 1", {}, "intralb.toml: 'queu_size' is not a setting; did you mean queue_size?"),
        ((), "", {"INTRALB_DB_INIT_FUNC": "nothing:here"}, "db_init_func: there is no module 'nothing'"),
        (("--forwarded-allow-ips", "1.2.3"), "", {}, "1.2.3"),
    ],
)
def test_errors_name_the_setting(
    start: Start, flags: tuple[str, ...], settings: str, variables: dict[str, str], message: str
) -> None:
    served = start(*flags, application=PLAIN, settings=settings, **variables)
    assert served.ended() in (1, 4)
    assert message in served.said
    assert "Traceback" not in served.said


def test_preload_app_with_a_configuration_that_patches(start: Start) -> None:
    patch = "from gevent import monkey\nmonkey.patch_all()\n"
    application = "import os\nloaded = os.getpid()\n" + PLAIN.replace("os.getpid()", "(loaded, os.getpid())")
    served = start("--preload", "-w", "2", configuration=patch, application=application).serves(2)
    loaded, worker = eval(served.get().body)
    assert loaded == served.process.pid
    assert worker in served.workers()
    served.signal(signal.SIGHUP)
    served.serves(4)
    assert served.get().status == 200
    assert "Traceback" not in served.stop()


def test_settings_without_effect_are_named(start: Start) -> None:
    served = start(configuration="strip_header_spaces = True\n", application=PLAIN, INTRALB_QUEU_SIZE="1").serves()
    assert "strip_header_spaces=True has no effect" in served.said
    assert "INTRALB_QUEU_SIZE is not a setting and has no effect; did you mean INTRALB_QUEUE_SIZE?" in served.said


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("INTRALB_LOG_LEVEL", "error", "INTRALB_LOG_LEVEL has no effect under gunicorn; set gunicorn's --log-level"),
        (
            "INTRALB_LOG_FILE",
            "our.log",
            "INTRALB_LOG_FILE has no effect under gunicorn; set gunicorn's --error-logfile",
        ),
        (
            "INTRALB_LOG_CONFIG",
            "our.ini",
            "INTRALB_LOG_CONFIG has no effect under gunicorn; set gunicorn's --log-config",
        ),
        ("INTRALB_PROCESSES", "3", "INTRALB_PROCESSES has no effect under gunicorn; set gunicorn's --workers"),
        ("INTRALB_READY_FILE", "ready", "INTRALB_READY_FILE has no effect under gunicorn"),
    ],
)
def test_a_setting_of_serve_names_the_one_of_gunicorn(start: Start, variable: str, value: str, said: str) -> None:
    served = start(application=PLAIN, **{variable: value}).serves()
    assert said in served.said
    assert "1 workers" not in served.stop()


def test_the_port_of_a_platform_is_no_setting_without_effect(start: Start) -> None:
    assert "has no effect" not in start(application=PLAIN, PORT="1").serves().stop()


@pytest.mark.parametrize(("form", "begin"), [("json", '{"time": "2'), ("combined", "127.0.0.1 - - [")])
def test_requests_in_a_format_of_ours_are_whole_lines(start: Start, form: str, begin: str) -> None:
    served = start(application=PLAIN, INTRALB_LOG_FORMAT=form, INTRALB_ENABLE_LOGGING="1").serves()
    assert served.get("/cart?item=7").status == 200
    lines = [line for line in served.stop().splitlines() if "/cart" in line]
    assert [line[: len(begin)] for line in lines] == [begin]
    assert ("JSONFormatter" in served.said) == (form == "json")


def test_every_line_is_json_with_gunicorns_configuration(start: Start) -> None:
    configuration = """
logconfig_dict = {
    "formatters": {"json": {"()": "intralb_gevent.logformats.JSONFormatter"}},
    "handlers": {"log": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"level": "INFO", "handlers": []},
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": ["log"], "propagate": False}},
}
"""
    variables = {"INTRALB_LOG_FORMAT": "json", "INTRALB_ENABLE_LOGGING": "1"}
    served = start(configuration=configuration, application=PLAIN, **variables)
    served.until(lambda: "serves (pid:" in served.said)
    port = served.until(lambda: re.search(r"Listening at: http://127.0.0.1:(\d+)", served.said))
    assert port
    assert served.get("/cart").status == 200
    found = [json.loads(line) for line in served.stop().splitlines()]
    assert [each["path"] for each in found if each.get("status") == 200] == ["/cart"]
    assert not [each for each in found if "JSONFormatter" in each["message"]]


# The admin address.


def test_the_admin_address_answers_for_all_workers(start: Start) -> None:
    port = free_port()
    served = start("-w", "2", application=PLAIN, INTRALB_ADMIN_BIND=f"127.0.0.1:{port}").serves(2)
    for _ in range(20):
        assert served.get().status == 200

    def received() -> bool:
        return 'intralb_requests_total{lane="general",outcome="completed"} 20' in asked(port, "/metrics")

    served.until(received)
    assert asked(port, "/ready") == "serving\n"
    site = json.loads(asked(port, "/snapshot"))["site"]
    assert sorted(each["pid"] for each in site["processes"]) == sorted(served.workers())
    served.signal(signal.SIGHUP)
    served.serves(4)
    served.until(received)
    served.stop()


@pytest.mark.parametrize("address", ["unix:admin.sock", "127.0.0.1:0", "fd:3"])
def test_an_admin_address_that_workers_cannot_share_is_refused(start: Start, address: str) -> None:
    served = start(application=PLAIN, INTRALB_ADMIN_BIND=address)
    assert served.ended() in (1, 4)
    assert f"admin_bind: '{address}' is not allowed under gunicorn; it must be HOST:PORT" in served.said


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def asked(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read().decode()


def test_an_application_that_is_a_balancer_keeps_its_options(start: Start) -> None:
    application = (
        PLAIN
        + "\nfrom intralb_gevent import LoadBalancer, Options\n"
        + ("app = LoadBalancer({'/one': app}, Options(enable_logging=True))\n")
    )
    served = start("--access-logfile", "-", application=application).serves()
    assert [served.get(path).status for path in ("/one/x", "/two")] == [200, 404]
    served.stop()
    assert "GET /one/x 200 completed" in served.said
    assert served.printed.count("GET /one/x") == 1


def test_each_worker_sends_its_metrics(start: Start) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(PATIENCE)
        target = f"dogstatsd://127.0.0.1:{receiver.getsockname()[1]}"
        served = start("-w", "1", application=PLAIN, INTRALB_PUSH_METRICS=target).serves()
        assert served.get().status == 200
        served.stop()
        lines: list[str] = []
        while not [line for line in lines if line.startswith("process.open_fds")]:
            lines += receiver.recv(65536).decode().splitlines()
    assert "intralb.requests:1|c|#lane:general,outcome:completed" in lines
    assert "intralb.slots_max:1000|g|#lane:general,process:0" in lines
