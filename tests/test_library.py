"""Tests of what help(), dir() and completion show of the package, and of the warning of an unpatched process."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from typing import Any

import pytest

import intralb_gevent
from intralb_gevent import LoadBalancer, Options

PUBLIC = sorted(set(intralb_gevent.__all__))


def documented(owner: Any) -> list[str]:
    """Return the public functions and properties that this package's classes define."""
    classes = [kind for kind in getattr(owner, "__mro__", ()) if kind.__module__.startswith("intralb_gevent")]
    members = {name: value for kind in classes for name, value in vars(kind).items() if not name.startswith("_")}
    called = {name: value for name, value in members.items() if inspect.isroutine(value) or isinstance(value, property)}
    return [name for name, value in called.items() if getattr(value, "__name__", name) != "<lambda>"]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_thing_has_a_docstring(name: str) -> None:
    found = getattr(intralb_gevent, name)
    assert inspect.getdoc(found)
    missing = [member for member in documented(found) if not inspect.getdoc(getattr(found, member))]
    assert missing == []


def test_dir_and_completion_show_public_names_only() -> None:
    assert dir(intralb_gevent) == sorted([*PUBLIC, "__version__"])
    names = dir(LoadBalancer(lambda environ, start_response: []))
    assert not [name for name in names if name.startswith("_")]
    assert {"balance_load", "condition", "drain", "options", "resize", "snapshot"} <= set(names)


def test_help_shows_arguments_methods_and_settings() -> None:
    text = pydoc.plain(pydoc.render_doc(LoadBalancer))
    for shown in (
        "application: ",
        "options: ",
        "def snapshot",
        "Return one immutable snapshot",
        "Raises `OptionError`",
    ):
        assert shown.removeprefix("def ") in text
    text = pydoc.plain(pydoc.render_doc(Options))
    assert "queue_size: a whole number of at least 0" in text
    assert "Maximum number of requests in a worker's queue" in text


PROGRAM = """
{first}
import gevent
from intralb_gevent import WSGIServer
for _ in range(2):
    server = WSGIServer(("127.0.0.1", 0), lambda environ, start_response: [])
    server.start()
    server.stop(0)
"""


@pytest.mark.parametrize("patched", [False, True])
def test_a_server_in_an_unpatched_process_warns_once(patched: bool) -> None:
    first = "from gevent import monkey; monkey.patch_all()" if patched else ""
    program = [sys.executable, "-c", PROGRAM.format(first=first)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=25, check=True)
    assert done.stderr.count("this process is not monkey-patched") == (not patched)
    assert ("gevent.monkey.patch_all()" in done.stderr) is (not patched)
