"""An abort during the import of a module does not leave a half-initialized module."""

from __future__ import annotations

import builtins
import importlib
import pathlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event

from intralb_gevent import DeadlineExceeded, RequestKilled
from intralb_gevent.pool import abortable

TIMEOUT = 0.1

WAITS = """
import builtins
state = builtins.state_of_test
state.begun += 1
try:
    state.gate.wait()
except BaseException as error:
    state.cut.append(type(error))
    raise
"""


@pytest.fixture
def state(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Create an importable module `waits`, which waits until a gate is set, and a package that imports the module."""
    state = SimpleNamespace(gate=Event(), begun=0, cut=[])
    (tmp_path / "waits.py").write_text(WAITS)
    (tmp_path / "waiting_package").mkdir()
    (tmp_path / "waiting_package" / "__init__.py").write_text("import waits\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(builtins, "state_of_test", state, raising=False)
    yield state
    for name in ("waits", "waiting_package"):
        sys.modules.pop(name, None)


class Importer:
    """An application that imports a module, and then runs until it is aborted."""

    def __init__(self, name: str, afterwards: Callable[[], object]) -> None:
        self.name = name
        self.afterwards = afterwards
        self.imported: list[str] = []
        self.ended: list[type[BaseException]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            self.imported.append(importlib.import_module(self.name).__name__)
            self.afterwards()
        except BaseException as error:
            self.ended.append(type(error))
            raise
        return []


def compute() -> None:
    while True:
        pass


def wait() -> None:
    Event().wait()


@pytest.mark.parametrize("afterwards", [wait, compute])
@pytest.mark.parametrize("name", ["waits", "waiting_package"])
def test_an_import_that_waits_is_finished_and_then_the_request_is_ended(
    balance, asking, eventually, state, name, afterwards
) -> None:
    application = Importer(name, afterwards)
    balancer = balance(application, request_timeout_seconds=TIMEOUT, cleanup_seconds=TIMEOUT)
    (request,) = asking(balancer, "/")
    assert request.get().status == "504 Gateway Timeout"
    # Set the gate only after the time for which a handler is allowed to swallow aborts.
    gevent.spawn_later((abortable.MOST_ABORTS + 3) * TIMEOUT, state.gate.set)
    assert eventually(lambda: application.ended) == [DeadlineExceeded]
    assert application.imported == [name]
    assert (state.begun, state.cut, balancer.snapshot().given_up) == (1, [], 0)


def test_an_import_that_hangs_is_ended_after_a_time(balance, asking, eventually, state, monkeypatch) -> None:
    monkeypatch.setattr(abortable, "IMPORT_SECONDS", 0.1)
    application = Importer("waits", wait)
    (request,) = asking(balance(application, request_timeout_seconds=TIMEOUT), "/")
    assert request.get().status == "504 Gateway Timeout"
    assert eventually(lambda: application.ended) == [DeadlineExceeded]
    assert state.cut == [DeadlineExceeded]


def test_an_import_that_waits_is_ended_when_the_server_stops(balance, asking, eventually, state) -> None:
    application = Importer("waits", wait)
    balancer = balance(application, request_timeout_seconds=TIMEOUT)
    (request,) = asking(balancer, "/")
    assert request.get().status == "504 Gateway Timeout"
    balancer.drain(0)
    assert application.ended == state.cut == [RequestKilled]


SHARED_IMPORT = """
import importlib, pathlib

pathlib.Path("slow.py").write_text("import time; time.sleep(1.5); VALUE = 'made'")
importlib.invalidate_caches()
ended = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    text = " ".join(ended)
    if path != "/ended":
        pathlib.Path(f"begun{path.replace('/', '-')}").touch()
        try:
            from slow import VALUE as text
        except BaseException as error:
            ended.append(f"{path}:{type(error).__name__}")
            raise
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
"""


def test_others_that_wait_for_the_same_import_get_the_module_or_end_at_their_own_deadline(serve_program) -> None:
    routes = [f"--routes=/{name} request_timeout_seconds=0.3" for name in ("first", "short")]
    program = serve_program(SHARED_IMPORT, *routes)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(program.get, "/first")
        program.wait_until((program.directory / "begun-first").exists)
        short, long = threads.submit(program.get, "/short"), threads.submit(program.get, "/long")
        assert (first.result().status, short.result().status) == (504, 504)
        assert program.get("/ended").body == "/short:DeadlineExceeded"
        assert not long.done()
        assert long.result() == (200, "made")
    assert program.get("/long") == (200, "made")
    assert program.get("/ended").body == "/short:DeadlineExceeded"
