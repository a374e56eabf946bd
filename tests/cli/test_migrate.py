"""Tests of `migrate`: what other servers' settings become here, and that the printed settings can be read."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from intralb_gevent import OptionError
from intralb_gevent.cli.migrate import migrate
from intralb_gevent.config import sources

GUNICORN = """
import os
prefix = "/srv"
bind = ["0.0.0.0:8000", "unix:" + prefix + "/shop.sock"]
workers = 2 + 1
worker_class = "gevent"
worker_connections = 250
timeout = 60
keepalive = 5
accesslog = "-"
max_requests = 1000
max_requests_jitter = 50
umask = 0o027
proc_name = "shop"

def post_fork(server, worker): ...
"""

UWSGI = """
; a comment
[uwsgi]
base = /srv/shop
chdir = %(base)
wsgi-file = shop/wsgi.py
callable = app
master = true
processes = 4
threads = 2
socket = %(base)/shop.sock
chmod-socket = 660
harakiri = 30
uid = www-data
max-requests = 5000
reload-on-rss = 512
unheard-of = 1

[other]
processes = 9
"""


def read(text: str, tmp_path: pathlib.Path) -> dict[str, Any]:
    """Return the settings in the printed text; all of them must be valid."""
    (tmp_path / "intralb.toml").write_text(text)
    sources.load({}, {}, str(tmp_path / "intralb.toml"))
    return tomllib.loads(text)


def test_a_file_of_gunicorn(tmp_path: pathlib.Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(GUNICORN)
    text = migrate([str(tmp_path / "gunicorn.conf.py")])
    assert read(text, tmp_path) == {
        "bind": ["0.0.0.0:8000", "unix:/srv/shop.sock"],
        "processes": 3,
        "max_workers": 3,
        "max_concurrent_per_router": 84,
        "request_timeout_seconds": 60.0,
        "keep_alive_seconds": 5.0,
        "enable_logging": True,
        "process_max_requests": 1000,
        "umask": "027",
    }
    for name in ("worker_class = gevent: ", "max_requests_jitter = 50: ", "post_fork: ", "proc_name = shop: "):
        assert f"\n# {name}" in text
    assert "prefix" not in text
    assert "\n# graceful_timeout, by default 30: graceful_timeout_seconds is 5 by default" in text


def test_the_verification_of_clients_and_the_target_of_metrics_are_kept(tmp_path: pathlib.Path) -> None:
    tls = "--certfile a.pem --ca-certs b.pem"
    text = migrate([f"gunicorn -k gevent {tls} --cert-reqs 1 --statsd-host localhost:8125 shop:app"])
    assert read(text, tmp_path) == {
        "application": "shop:app",
        "certfile": "a.pem",
        "ca_certs": "b.pem",
        "cert_reqs": "optional",
        "push_metrics": "statsd://localhost:8125",
    }
    assert "cert_reqs" not in read(migrate([f"uvicorn {tls.replace('--', '--ssl-')} --ssl-cert-reqs 2 x:y"]), tmp_path)


def test_a_command_line_of_gunicorn_with_its_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gunicorn.conf.py").write_text("workers = 2\ntimeout = 9\n")
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--keep-alive 7")
    command = "exec /srv/bin/gunicorn -w4 --bind=:8000 -b unix:/x.sock -k gthread --threads 8 --preload shop.wsgi"
    for source in ([command], command.split()):
        text = migrate(source)
        assert read(text, tmp_path) == {
            "application": "shop.wsgi:application",
            "bind": [":8000", "unix:/x.sock"],
            "processes": 4,
            "request_timeout_seconds": 9.0,
            "keep_alive_seconds": 7.0,
            "max_workers": 1,
            "max_concurrent_per_router": 8,
        }
        assert "\n# preload_app = True: " in text


def test_a_file_of_uwsgi(tmp_path: pathlib.Path) -> None:
    (tmp_path / "uwsgi.ini").write_text(UWSGI)
    text = migrate([str(tmp_path / "uwsgi.ini")])
    assert read(text, tmp_path) == {
        "application": "shop.wsgi:app",
        "chdir": "/srv/shop",
        "processes": 4,
        "max_workers": 1,
        "max_concurrent_per_router": 2,
        "bind": ["unix:/srv/shop/shop.sock"],
        "socket_mode": "660",
        "request_timeout_seconds": 30.0,
        "user": "www-data",
        "process_max_requests": 5000,
        "process_max_rss": "512M",
    }
    assert "use proxy_pass instead of uwsgi_pass" in text
    assert "\n# unheard-of = 1: not known to this command" in text
    assert "base =" not in text


def test_a_command_line_of_uvicorn(tmp_path: pathlib.Path) -> None:
    command = "uvicorn shop:make --factory --host :: --port 80 --workers 3 --reload --proxy-headers --loop uvloop"
    text = migrate([command])
    assert read(text, tmp_path) == {"application": "shop:make()", "bind": ["[::]:80"], "processes": 3, "reload": True}
    assert "\n# loop = uvloop: " in text


def test_a_value_that_is_not_allowed_here_is_left_to_the_reader(tmp_path: pathlib.Path) -> None:
    text = migrate(["gunicorn -w 0 --timeout 0 --threads many shop:app"])
    assert read(text, tmp_path) == {"application": "shop:app"}
    assert "# workers = 0: processes: 0 is not allowed" in text
    assert "# timeout = 0: the deadline cannot be disabled" in text
    assert "# threads = many: this value was not understood" in text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (["shop:app"], "give gunicorn.conf.py, a uwsgi.ini, or a command line"),
        ([], "give gunicorn.conf.py, a uwsgi.ini, or a command line"),
        (["nowhere.ini"], "'nowhere.ini' cannot be read"),
        (["nowhere.py"], "'nowhere.py' cannot be read"),
    ],
)
def test_what_cannot_be_read_is_an_error(source: list[str], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        migrate(source)
    assert said in str(caught.value)


def test_the_command_prints_settings_that_serve_reads(tmp_path: pathlib.Path) -> None:
    program = [sys.executable, "-m", "intralb_gevent"]
    command = [*program, "migrate", "gunicorn", "-w", "4", "-b", "127.0.0.1:8009", "shop:app"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=25, check=True).stdout
    (tmp_path / "intralb.toml").write_text(printed)
    shown = subprocess.run(
        [*program, "serve", "--show-config"], cwd=tmp_path, capture_output=True, text=True, timeout=25, check=True
    ).stdout
    settings = tomllib.loads(shown)
    assert (settings["application"], settings["processes"], settings["bind"]) == ("shop:app", 4, ["127.0.0.1:8009"])
