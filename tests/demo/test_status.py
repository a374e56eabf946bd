"""The counters: what is answered and what is running, also when requests fail or are left half read."""

import re

import pytest

from intralb_gevent.demo.routes import DeliberateFailure


def rows(client):
    """Return what the table of pages says: name -> (answered, running)."""
    found = re.findall(r'<th scope="row">([^<]+)</th><td>(\d+)</td><td>(\d+)</td>', client.get("/status").text)
    return {name: (int(answered), int(running)) for name, answered, running in found}


def test_each_page_is_counted_under_its_own_name(client):
    for url in ("/", "/notes", "/notes/1", "/notes/2", "/healthz", "/healthz", "/nowhere", "/elsewhere"):
        client.get(url)
    assert rows(client) == {
        "health": (2, 0),
        "home": (1, 0),
        "not found": (2, 0),
        "note": (2, 0),
        "notes": (1, 0),
        "status": (0, 1),
    }


def test_a_request_that_fails_is_no_longer_running(client):
    with pytest.raises(DeliberateFailure):
        client.get("/fail")
    assert rows(client)["fail"] == (1, 0)


def test_a_stream_runs_until_it_is_closed_however_far_it_was_read(client):
    body = client.begin("GET", "/stream", lambda *given: None)
    next(iter(body))
    assert rows(client)["stream"] == (0, 1)
    body.close()
    assert rows(client)["stream"] == (1, 0)


def test_workers_are_counted_and_only_the_newest_are_kept(client):
    for worker in [0, 1, 1, *range(2, 40)]:
        client.get("/healthz", **{"intralb.worker": worker})
    shown = re.findall(r"worker (\d+)</th><td>(\d+)", client.get("/status").text)
    assert shown == [(str(worker), "1") for worker in range(16, 40)]


def test_without_a_balancer_no_worker_is_shown(client):
    assert "No request has come through a balancer." in client.get("/status").text
