"""Reloads lose no request; if the new version of an application is broken, the old version goes on serving."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.processes.conftest import START_PATIENCE

RELOADS = int(os.environ.get("INTRALB_TEST_RELOADS", "3"))


def test_rolling_reloads_lose_no_request_of_clients_that_connect_anew(
    serve_site: Callable[..., Any], clients: Any
) -> None:
    site = serve_site()
    with clients(site) as crowd:
        for generation in range(2, RELOADS + 2):
            site.signal(signal.SIGHUP)
            site.until(lambda generation=generation: site.serves(2, generation))
    assert crowd.errors == []
    assert len({text.split()[0] for text in crowd.texts}) > RELOADS
    assert site.said.count("processes of generation") == RELOADS


LATE = "was not ready within {{:g}} s; it reported: {}"
BROKEN = {
    "raises": ("raise ImportError('half deployed')", "importing 'served' failed: ImportError: half deployed"),
    "hangs": ("import time\ntime.sleep(600)", LATE.format("starting, at <module> (0/served.py:2)")),
    "computes": ("def spin():\n    while True: pass\n\nspin()", LATE.format("starting, at spin (0/served.py:2)")),
    "answers 500": ("{}\nSTATUS = '500 Oh'", LATE.format("not ready: /healthz is answered 500")),
    "dies": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
}
"""The new version's code, and the reported cause, for each kind of failure."""


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_deploy_leaves_the_old_generation_serving(
    serve_site: Callable[..., Any], clients: Any, how: str, app_text: str
) -> None:
    text, cause = BROKEN[how]
    began = time.monotonic()
    site = serve_site("--ready-path", "/healthz")
    # Only the broken version has little time to start: four times as long as the working one has needed.
    seconds = max(2.5, round(2 * (time.monotonic() - began), 1))
    settings = site.directory / "intralb.toml"
    settings.write_text(f"process_timeout_seconds = {seconds}")
    before = site.ready()
    with clients(site, 2) as crowd:
        site.deploy(text.replace("{}", app_text))
        site.until(lambda: site.state()["reload"]["result"] == "failed", within=START_PATIENCE)
        state = site.state()
        assert cause.format(2 * seconds) in state["reload"]["cause"]
        assert "reload failed; 2 processes go on serving: process " in site.said
        site.until(lambda: site.serves(2))
        assert site.ready() == before
    assert crowd.errors == []
    assert {int(text.split()[0]) for text in crowd.texts} <= set(before)
    # The next deploy succeeds.
    settings.unlink()
    site.deploy(app_text.replace("one", "another"))
    site.until(lambda: site.serves(2, 3), within=START_PATIENCE)
    assert site.get()[1].endswith("another")


def test_a_reload_replaces_a_start_that_hangs(serve_site: Callable[..., Any], app_text: str) -> None:
    site = serve_site()
    site.deploy("import time\ntime.sleep(600)")
    site.until(lambda: len(site.state()["processes"]) == 3)
    site.deploy(app_text.replace("one", "another"))
    site.until(lambda: site.serves(2, 3))
    assert site.get()[1].endswith("another")


def test_a_reload_reads_the_settings_again(serve_site: Callable[..., Any], tmp_path: pathlib.Path) -> None:
    config = tmp_path / "intralb.toml"
    config.write_text("processes = 1\nprocess_max_seconds = 3600\n")
    site = serve_site("--config", str(config), processes=None)
    assert site.serves(1)
    config.write_text("processes = 2\n")
    site.signal(signal.SIGHUP)
    site.until(lambda: site.serves(2, 2))
    config.write_text("processes = 'no'\n")
    site.signal(signal.SIGHUP)
    site.until(lambda: "processes: 'no' is not allowed" in site.state()["reload"]["cause"])
    config.write_text("processes = 4\nqueue_size = -1\n")
    site.signal(signal.SIGHUP)
    site.until(lambda: "queue_size: -1 is not allowed" in site.state()["reload"]["cause"])
    site.until(lambda: site.serves(2, 2))


def test_signals_change_the_number_of_processes(serve_site: Callable[..., Any]) -> None:
    site = serve_site()
    site.signal(signal.SIGTTIN)
    site.until(lambda: site.serves(3))
    for wanted in ("2 processes are", "1 process is", "1 process is"):
        before = site.said.count(f" {wanted} wanted")
        site.signal(signal.SIGTTOU)
        site.until(lambda wanted=wanted, before=before: site.said.count(f" {wanted} wanted") > before)
    site.until(lambda: site.serves(1))
    assert site.get()[0] == 200


def test_the_supervisor_itself_is_replaced_with_its_processes(serve_site: Callable[..., Any], clients: Any) -> None:
    site = serve_site()
    before = site.ready()
    with clients(site, 2) as crowd:
        for count in (1, 2):
            site.signal(signal.SIGUSR2)
            site.until(lambda count=count: site.said.count("was replaced by") == count)
        assert site.ready() == before
        site.signal(signal.SIGHUP)
        site.until(lambda: site.serves(2, 2))
    assert crowd.errors == []
    site.signal(signal.SIGTERM)
    assert site.ended() == 0
    assert not site.process.ready_file.exists()


def test_signals_that_arrive_while_the_supervisor_is_replaced_are_not_lost(serve_site: Callable[..., Any]) -> None:
    site = serve_site()
    site.signal(signal.SIGSTOP)
    for number in (signal.SIGUSR2, signal.SIGHUP):
        site.signal(number)
    site.signal(signal.SIGCONT)
    site.until(lambda: site.serves(2, 2))
    assert site.said.count("was replaced by") == 1
    assert site.state()["reload"]["result"] == "done"
    site.signal(signal.SIGUSR2)
    time.sleep(0.1)
    site.signal(signal.SIGTTIN)
    site.until(lambda: site.serves(3))
    assert site.said.count("reload: starting generation 2") == 1


def test_a_failed_replacement_leaves_the_supervisor_as_it_is(serve_site: Callable[..., Any]) -> None:
    site = serve_site()
    moved = site.directory.with_name("moved")
    site.directory.rename(moved)
    site.signal(signal.SIGUSR2)
    site.directory = site.process.directory = moved
    site.until(lambda: "the supervisor was not replaced: " in site.said)
    site.signal(signal.SIGHUP)
    site.until(lambda: site.state()["reload"]["result"] == "failed")
    assert "No such file or directory" in site.state()["reload"]["cause"]
    assert site.get()[0] == 200
    moved.rename(moved.with_name("0"))
    site.directory = site.process.directory = moved.with_name("0")
    site.signal(signal.SIGHUP)
    site.until(lambda: site.state()["reload"]["result"] == "done")
    assert site.serves(2, site.state()["generation"])


REFUSED = {
    'log_level = "loud"': "log_level",
    'user = "nobody-has-this-name"': "there is no user",
    'pid_file = "/no/such/directory/pid"': "cannot write the pid file",
}
"""Settings with which no supervisor can start, and a part of the message about each."""


def test_a_supervisor_that_could_not_start_does_not_replace_the_running_one(serve_site: Callable[..., Any]) -> None:
    site = serve_site()
    before, settings = site.ready(), site.directory / "intralb.toml"
    for text, message in REFUSED.items():
        settings.write_text(text)
        site.signal(signal.SIGUSR2)
        site.until(lambda message=message: re.search(f"the supervisor was not replaced: .*{message}", site.said))
    settings.unlink()
    site.signal(signal.SIGUSR2)
    site.until(lambda: "was replaced by" in site.said)
    assert site.ready() == before
    site.signal(signal.SIGTERM)
    assert site.ended() == 0


WITH_SETTINGS = """
import os, sys
with open("intralb.toml", "w") as file:
    file.write("processes = 2")
os.execv(sys.executable, [sys.executable, "-m", "intralb_gevent", *sys.argv[1:]])
"""


def test_a_supervisor_of_one_process_is_replaced_by_a_supervisor(serve_site: Callable[..., Any]) -> None:
    site = serve_site(processes=None, program=("-c", WITH_SETTINGS))
    (site.directory / "intralb.toml").unlink()
    site.signal(signal.SIGHUP)
    site.until(lambda: site.serves(1, 2))
    site.signal(signal.SIGUSR2)
    site.until(lambda: "was replaced by" in site.said)
    site.signal(signal.SIGHUP)
    site.until(lambda: site.serves(1, 3))
    site.signal(signal.SIGTERM)
    assert site.ended() == 0


IN_LINKED_DIRECTORY = """
import os, sys
for number in "12":
    os.mkdir(number)
    with open("served.py") as original, open(number + "/served.py", "w") as copy:
        copy.write(original.read().replace("one", "version " + number))
os.symlink("1", "current")
# As a shell sets it.
os.environ["PWD"] = os.getcwd() + "/current"
os.chdir("current")
os.execv(sys.executable, [sys.executable, "-m", "intralb_gevent", *sys.argv[1:]])
"""


def test_a_deploy_may_switch_a_symbolic_link(serve_site: Callable[..., Any]) -> None:
    site = serve_site("--ready-file", "../ready.json", program=("-c", IN_LINKED_DIRECTORY))
    assert site.get()[1].endswith("version 1")
    (site.directory / "new").symlink_to("2")
    (site.directory / "new").rename(site.directory / "current")
    site.signal(signal.SIGHUP)
    site.until(lambda: site.serves(2, 2))
    assert site.get()[1].endswith("version 2")
