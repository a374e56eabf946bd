"""Rejected requests are summed up in one record for each interval."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from intralb_gevent.hub.log import HubLog
from intralb_gevent.observe.stats import Stats
from intralb_gevent.pool import refusalsummary
from intralb_gevent.pool.refusalsummary import RefusalSummary


def counts(caplog: pytest.LogCaptureFixture) -> list[int]:
    """Return the number of rejections in each record."""
    return [int(count) for count in re.findall(r"refused (\d+) requests? in \d+ s: queue_full \1\n", caplog.text)]


def test_each_rejection_is_in_one_record(
    balance: Callable[..., Any],
    gate: Any,
    asking: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(refusalsummary, "SECONDS", 0.1)
    caplog.set_level(logging.INFO)
    balancer = balance(gate, max_concurrent_per_router=1, queue_size=0, max_workers=1, max_wait_seconds=float("inf"))
    asking(balancer, *(f"/{number}" for number in range(201)))
    eventually(lambda: sum(counts(caplog)) == 200)
    assert len(counts(caplog)) < 200
    assert {each.levelname for each in caplog.records if each.getMessage().startswith("refused ")} == {"WARNING"}


def test_a_shutdown_reports_what_is_left(
    balance: Callable[..., Any], gate: Any, asking: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    balancer = balance(gate, max_concurrent_per_router=1, queue_size=0, max_workers=1)
    asking(balancer, "/1", "/2")
    balancer.drain(0)
    assert "refused 1 request in 1 s: queue_full 1" in caplog.text


def test_the_reasons_are_in_the_order_of_their_numbers() -> None:
    lane = type("Lane", (), {"stats": Stats()})()
    log = HubLog(lambda level, text: None)
    summary = RefusalSummary([lane], log)
    summary.look(0.0)
    for reason, count in (("client", 14), ("overloaded", 1_390)):
        for _ in range(count):
            lane.stats.add_shed(reason)
    written: list[Any] = []
    log.record = lambda level, text: written.append(text())  # type: ignore[method-assign]
    summary.look(1.0)
    summary.look(10.9)
    assert not written
    summary.look(11.0)
    assert written == ["refused 1,404 requests in 10 s: overloaded 1,390, client 14"]
    assert written[0].fields == {"rejected": 1_404, "seconds": 10.0, "reasons": {"overloaded": 1_390, "client": 14}}
