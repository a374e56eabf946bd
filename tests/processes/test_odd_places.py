"""A supervisor in unusual circumstances: without its program, its directory or its signals; nothing stays behind."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import sys
import sysconfig
from collections.abc import Callable
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_deploy_without_a_program_leaves_the_old_one_serving(
    serve_site: Callable[..., Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deploy that replaces the virtual environment may have removed the program at this moment."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    program = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    # A link to Python does not lead to the virtual environment, so name its packages.
    packages = [str(ROOT), sysconfig.get_path("purelib")]
    start = f"import os; os.environ['PYTHONPATH'] = {os.pathsep.join(packages)!r}; {program}"
    site = serve_site(program=("-c", start, str(python), "-m", "intralb_gevent"))
    python.unlink()
    site.signal(signal.SIGHUP)
    site.until(lambda: site.state()["reload"]["result"] == "failed")
    assert "perhaps because the program cannot be executed" in site.state()["reload"]["cause"]
    site.signal(signal.SIGUSR2)
    site.until(lambda: "the supervisor was not replaced" in site.said)
    assert site.get()[0] == 200


def test_a_deploy_without_its_directory_leaves_the_old_one_serving(serve_site: Callable[..., Any]) -> None:
    site = serve_site()
    elsewhere = site.directory.with_name("elsewhere")
    shutil.move(site.directory, elsewhere)
    site.signal(signal.SIGHUP)
    site.until(lambda: site.state()["reload"]["result"] == "failed")
    assert site.get()[0] == 200
    shutil.move(elsewhere, site.directory)
    site.signal(signal.SIGHUP)
    site.until(lambda: site.serves(2, generation=2) or site.serves(2, generation=3))


def test_inherited_signals_do_not_matter_and_nothing_is_left_open(serve_site: Callable[..., Any]) -> None:
    """A program that starts the supervisor may ignore SIGCHLD, and block other signals."""
    program = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, {1, 2, 6, 10, 12, 15, 17}); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    site = serve_site(program=("-c", program, "-m", "intralb_gevent"))
    before = descriptors(site.pid)
    site.signal(signal.SIGKILL, site.ready()[0])
    site.until(lambda: site.serves(2) and "was killed by SIGKILL" in site.said)
    site.signal(signal.SIGHUP)
    site.until(lambda: site.serves(2, generation=2))
    assert descriptors(site.pid) == before
    children = pathlib.Path(f"/proc/{site.pid}/task/{site.pid}/children").read_text().split()
    assert sorted(map(int, children)) == sorted(site.ready())
    site.signal(signal.SIGTERM)
    assert site.ended() == 0
