"""A process that is replaced moves its connections, so clients that never repeat a request notice nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from tests.keptclients import KeptClients

RELOADS = int(os.environ.get("INTRALB_TEST_RELOADS", "2"))


def test_reloads_close_no_connection(serve_site: Callable[..., Any], clients: Any) -> None:
    site = serve_site()
    with KeptClients(site.port) as kept, clients(site, 4) as anew:
        for generation in range(2, RELOADS + 2):
            site.signal(signal.SIGHUP)
            site.until(lambda generation=generation: site.serves(2, generation))
            before = kept.answers
            site.until(lambda before=before: kept.failures or kept.answers > before + 100)
    assert kept.failures == anew.errors == []
    assert len(kept.pids) > RELOADS


def test_connections_move_when_a_process_is_recycled(serve_site: Callable[..., Any]) -> None:
    site = serve_site("--process-max-requests", "300")
    first = set(site.ready())
    with KeptClients(site.port, pause=0.002) as kept:
        site.until(lambda: kept.failures or not first & set(site.ready()))
    assert kept.failures == []
    assert len(kept.pids) >= 2


def test_connections_move_after_the_supervisor_was_replaced(serve_site: Callable[..., Any]) -> None:
    site = serve_site()
    with KeptClients(site.port) as kept:
        site.signal(signal.SIGUSR2)
        site.until(lambda: "was replaced by" in site.said)
        site.signal(signal.SIGHUP)
        site.until(lambda: site.serves(2, 2))
    assert kept.failures == []
