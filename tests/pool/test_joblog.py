"""The job log has one line for each job, as text or JSON; a greenlet writes it."""

import json
import logging
import os
import re
import time
from datetime import datetime

import gevent
import pytest

from intralb_gevent.hub.log import HubLog


def application(environ, start_response):
    if environ["PATH_INFO"] == "/bad":
        raise ValueError
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b""]


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "intralb_gevent.jobs")

    def read():
        gevent.sleep(0.001)
        return [record.getMessage() for record in caplog.records if record.name == "intralb_gevent.jobs"]

    return read


def test_text(balance, asking, lines) -> None:
    balancer = balance(application, enable_logging=True, max_workers=1)
    gevent.joinall(asking(balancer, "/good", "/bad"))
    good, bad = sorted(lines(), reverse=True)
    assert good.startswith("GET /good 200 completed worker=1 wait=")
    assert bad.startswith("GET /bad 500 failed worker=1 wait=")


def test_json(balance, asking, lines) -> None:
    balancer = balance(application, enable_logging=True, log_format="json", max_workers=1, request_timeout_seconds=9)
    gevent.joinall(asking(balancer, "/good"))
    (line,) = lines()
    facts = json.loads(line)
    assert re.fullmatch("[0-9a-f]{20}", facts.pop("request_id"))
    assert facts.pop("queue_wait_ms") >= 0
    assert facts.pop("run_time_ms") >= 0
    assert abs(datetime.fromisoformat(facts.pop("time")).timestamp() - time.time()) < 60
    assert facts == {
        "level": "INFO",
        "pid": os.getpid(),
        "logger": "intralb_gevent.jobs",
        "message": "GET /good 200",
        "client": "",
        "worker": 1,
        "method": "GET",
        "path": "/good",
        "query": "",
        "referer": "",
        "agent": "",
        "protocol": "HTTP/1.0",
        "status": 200,
        "bytes": 0,
        "outcome": "completed",
        "reason": None,
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_who_asked_for_what(balance, lines, log_format) -> None:
    balancer = balance(application, enable_logging=True, log_format=log_format)
    asked = {"REMOTE_ADDR": "192.0.2.7", "PATH_INFO": "/a", "QUERY_STRING": "b=c d", "HTTP_USER_AGENT": "agent"}
    list(balancer({"REQUEST_METHOD": "GET", "HTTP_REFERER": "from", **asked}, lambda status, headers: None))
    (line,) = lines()
    if log_format == "text":
        assert line.startswith(r"GET /a?b=c\x20d 200 ")
        assert " client=192.0.2.7 " in line
        assert line.endswith(' referer="from" agent="agent"')
    else:
        facts = json.loads(line)
        assert [facts[key] for key in ("client", "query", "referer", "agent")] == [
            "192.0.2.7",
            "b=c d",
            "from",
            "agent",
        ]


def test_a_refused_job_has_a_line_with_the_reason(balance, gate, asking, lines) -> None:
    balancer = balance(gate, enable_logging=True, max_concurrent_per_router=1, queue_size=0, max_workers=1)
    asking(balancer, "/1", "/2")
    assert [line.split(" wait=")[0] for line in lines()] == ["GET /2 503 shed reason=queue_full worker=-"]


def test_a_client_cannot_write_a_line_of_its_own(balance, asking, lines) -> None:
    balancer = balance(application, enable_logging=True)
    gevent.joinall(asking(balancer, "/x\n2026 GET /forged 200"))
    (line,) = lines()
    assert "\n" not in line


def test_nor_can_it_write_fields_that_are_taken_for_those_of_its_line(balance, asking, lines) -> None:
    balancer = balance(application, enable_logging=True)
    gevent.joinall(asking(balancer, "/x 200 completed worker=1"))
    (line,) = lines()
    assert line.split()[1] == r"/x\x20200\x20completed\x20worker=1"


def test_off_by_default(balance, asking, lines) -> None:
    gevent.joinall(asking(balance(application), "/good"))
    assert lines() == []


def test_a_handler_that_waits_keeps_nobody_waiting_and_the_backlog_is_bounded(eventually) -> None:
    door, written = gevent.event.Event(), []

    class Slow(logging.Handler):
        def emit(self, record):
            door.wait()
            written.append(record.getMessage())

    logger = logging.Logger("slow")
    logger.addHandler(Slow())
    log = HubLog(logger.log)
    for number in range(log.LIMIT + 50):
        log.record(logging.INFO, lambda number=number: f"record {number}")
    assert log.dropped == 50
    gevent.sleep(0)
    assert written == []
    door.set()
    log.flush(10)
    assert written[0] == "record 0"
    assert len(written) == log.LIMIT
