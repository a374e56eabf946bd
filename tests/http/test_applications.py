"""Tests of third-party applications and frameworks that our command line serves, over the network.

The servers import this file, too: its factories create the applications. Warnings are errors.
"""

from __future__ import annotations

import email.utils
import hashlib
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest
import requests

HERE = pathlib.Path(__file__)
PATIENCE = 20.0
MEGABYTE = bytes(range(256)) * 4096


# Flask.


def flask_application() -> Any:
    import flask

    app = flask.Flask(__name__)
    app.secret_key = "known to this test only"

    @app.get("/")
    def counted() -> str:
        flask.session["visits"] = flask.session.get("visits", 0) + 1
        return f"visit {flask.session['visits']}"

    @app.post("/upload")
    def upload() -> dict[str, Any]:
        data = flask.request.files["file"].read()
        fields = flask.request.form.to_dict()
        return {"size": len(data), "sha": hashlib.sha256(data).hexdigest(), "fields": fields}

    @app.post("/raw")
    def raw() -> flask.Response:
        stream = flask.request.stream
        return flask.Response(iter(lambda: stream.read(65_536), b""))

    @app.get("/stream")
    def stream() -> flask.Response:
        return flask.Response(flask.stream_with_context(f"{number}\n" for number in range(1000)), mimetype="text/plain")

    @app.get("/file")
    def file() -> flask.Response:
        return flask.send_file(HERE, mimetype="text/x-python")

    @app.get("/memory")
    def memory() -> flask.Response:
        return flask.send_file(io.BytesIO(MEGABYTE), download_name="megabyte.bin")

    @app.get("/echo/<path:path>")
    def echo(path: str) -> dict[str, Any]:
        return {"path": path, "url": flask.request.url, "arguments": flask.request.args.to_dict(flat=False)}

    @app.get("/moved")
    def moved() -> Any:
        return flask.redirect("/echo/there")

    @app.route("/empty", methods=["GET", "DELETE"])
    def empty() -> Any:
        return "", 204

    @app.get("/failing")
    def failing() -> str:
        raise ValueError("on purpose")

    return app


def validated_flask_application() -> Any:
    return validator(flask_application())


# Django.


def django_urls() -> types.ModuleType:
    from django import http
    from django.urls import path
    from django.views.decorators.http import condition, require_POST

    @require_POST
    def upload(request: http.HttpRequest) -> http.HttpResponse:
        data = request.FILES["file"].read()
        return http.JsonResponse({"size": len(data), "sha": hashlib.sha256(data).hexdigest(), "fields": request.POST})

    @require_POST
    def raw(request: http.HttpRequest) -> http.HttpResponse:
        return http.HttpResponse(request.body)

    def stream(request: http.HttpRequest) -> http.StreamingHttpResponse:
        return http.StreamingHttpResponse((f"{number}\n" for number in range(1000)), content_type="text/plain")

    def file(request: http.HttpRequest) -> http.FileResponse:
        return http.FileResponse(HERE.open("rb"), content_type="text/x-python")

    @condition(etag_func=lambda request: '"known"')
    def known(request: http.HttpRequest) -> http.HttpResponse:
        return http.HttpResponse("known")

    def failing(request: http.HttpRequest) -> http.HttpResponse:
        raise ValueError("on purpose")

    urls = types.ModuleType("django_urls")
    views = {"upload": upload, "raw": raw, "stream": stream, "file": file, "known": known, "failing": failing}
    urls.urlpatterns = [path(name, view) for name, view in views.items()]  # type: ignore[attr-defined]
    return urls


def django_application() -> Any:
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application

    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1"],
        SECRET_KEY="known to this test only",
        ROOT_URLCONF=django_urls(),
        MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.gzip.GZipMiddleware"],
        LOGGING_CONFIG=None,
    )
    django.setup()
    return get_wsgi_application()


# Bottle.


def bottle_application() -> Any:
    import bottle

    app = bottle.Bottle()

    @app.get("/static/<name>")
    def static(name: str) -> Any:
        return bottle.static_file(name, root=str(HERE.parent))

    @app.post("/form")
    def form() -> dict[str, Any]:
        bottle.response.set_cookie("said", bottle.request.forms.word)
        return {"word": bottle.request.forms.word, "length": bottle.request.content_length}

    @app.get("/said")
    def said() -> str:
        return str(bottle.request.get_cookie("said"))

    @app.post("/raw")
    def raw() -> bytes:
        return bytes(bottle.request.body.read())

    @app.get("/parts")
    def parts() -> Iterator[str]:
        yield from ("one ", "two ", "three")

    @app.get("/refused")
    def refused() -> None:
        bottle.abort(403, "not you")

    return app


def validated_bottle_application() -> Any:
    return validator(bottle_application())


# WsgiDAV.


def wsgidav_application() -> Any:
    from wsgidav.fs_dav_provider import FilesystemProvider
    from wsgidav.wsgidav_app import WsgiDAVApp

    return WsgiDAVApp(
        {
            "provider_mapping": {"/": FilesystemProvider(os.environ["DAV_ROOT"])},
            "simple_dc": {"user_mapping": {"*": True}},
            "lock_storage": True,
            "property_manager": True,
            "logging": {"enable": False},
        }
    )


# Servers for the applications.


class Served:
    """A server process, and a client session for it."""

    def __init__(self, factory: str, directory: pathlib.Path) -> None:
        ready = directory / "ready.json"
        self._errors = directory / "stderr.txt"
        command = ["-W", "error", "-m", "intralb_gevent", "serve", f"{HERE.stem}:{factory}()"]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2]), "DAV_ROOT": str(directory / "dav")}
        (directory / "dav").mkdir()
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *command, "--bind", "127.0.0.1:0", "--ready-file", str(ready)],
                cwd=HERE.parent,
                env=environment,
                stderr=errors,
            )
        end = time.monotonic() + PATIENCE
        while not ready.exists() and self._process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        assert ready.exists(), self.said
        self.url = "http://127.0.0.1:" + re.findall('"port": ([0-9]+)', ready.read_text())[0]
        self.session = requests.Session()

    @property
    def said(self) -> str:
        return self._errors.read_text()

    def ask(self, method: str, path: str, **arguments: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=PATIENCE, allow_redirects=False, **arguments)

    def get(self, path: str, **arguments: Any) -> requests.Response:
        return self.ask("GET", path, **arguments)

    def end(self) -> None:
        """Stop the server by SIGTERM; check its exit code and output."""
        self.session.close()
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE) == 0, self.said
        assert "bug in intralb_gevent" not in self.said

    def abandon(self) -> None:
        self.session.close()
        self._process.kill()
        self._process.wait(PATIENCE)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Served]]:
    """Return a function that serves an application with one server for all tests, which must end cleanly."""
    running: dict[str, Served] = {}

    def start(factory: str) -> Served:
        if factory not in running:
            running[factory] = Served(factory, tmp_path_factory.mktemp(factory))
        return running[factory]

    yield start
    try:
        for served in running.values():
            served.end()
    finally:
        for served in running.values():
            served.abandon()


@pytest.fixture(params=["flask_application", "validated_flask_application"])
def flask(serving, request) -> Served:
    return serving(request.param)


@pytest.fixture
def django(serving) -> Served:
    return serving("django_application")


@pytest.fixture(params=["bottle_application", "validated_bottle_application"])
def bottle(serving, request) -> Served:
    return serving(request.param)


@pytest.fixture
def dav(serving) -> Served:
    return serving("wsgidav_application")


def told_of(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha": hashlib.sha256(data).hexdigest()}


def in_parts(data: bytes) -> Iterator[bytes]:
    """Yield the data in parts; the library requests then sends it in chunks."""
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


# Flask.


def test_flask_keeps_a_session_in_a_cookie(flask: Served) -> None:
    flask.session.cookies.clear()
    assert [flask.get("/").text for _ in range(3)] == ["visit 1", "visit 2", "visit 3"]


def test_flask_takes_a_form_with_a_file_of_a_megabyte(flask: Served) -> None:
    told = flask.ask("POST", "/upload", data={"a": "é", "b": "2"}, files={"file": ("f.bin", MEGABYTE)}).json()
    assert told == {**told_of(MEGABYTE), "fields": {"a": "é", "b": "2"}}


def test_flask_takes_a_form_in_chunks(flask: Served) -> None:
    form = requests.Request("POST", flask.url, files={"file": ("f.bin", MEGABYTE)}).prepare()
    kind = {"Content-Type": form.headers["Content-Type"]}
    told = flask.ask("POST", "/upload", data=in_parts(form.body), headers=kind).json()
    assert told == {**told_of(MEGABYTE), "fields": {}}


@pytest.mark.parametrize("body", [b"", b"small", MEGABYTE], ids=len)
@pytest.mark.parametrize("framed", [bytes, in_parts], ids=["length", "chunks"])
def test_flask_streams_a_body_back(flask: Served, framed: Callable[[bytes], Any], body: bytes) -> None:
    assert flask.ask("POST", "/raw", data=framed(body)).content == body


def test_flask_streams(flask: Served) -> None:
    answer = flask.get("/stream")
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.text.split() == [str(number) for number in range(1000)]


def test_flask_sends_a_file_in_whole_in_part_and_not_again(flask: Served) -> None:
    whole = flask.get("/file")
    assert whole.content == HERE.read_bytes()
    assert whole.headers["Content-Length"] == str(HERE.stat().st_size)
    part = flask.get("/file", headers={"Range": "bytes=10-29"})
    assert (part.status_code, part.content) == (206, HERE.read_bytes()[10:30])
    known = flask.get("/file", headers={"If-None-Match": whole.headers["ETag"]})
    assert (known.status_code, known.content) == (304, b"")
    head = flask.ask("HEAD", "/file")
    assert (head.headers["Content-Length"], head.content) == (whole.headers["Content-Length"], b"")
    assert flask.get("/memory").content == MEGABYTE


def test_flask_is_told_the_target_as_it_was_sent(flask: Served) -> None:
    told = flask.get("/echo/caf%C3%A9/a%2Fb?x=%20&x=2&y").json()
    assert told["path"] == "café/a/b"
    assert told["arguments"] == {"x": [" ", "2"], "y": [""]}
    assert told["url"].startswith(flask.url + "/echo/caf")


def test_flask_answers_without_bodies_and_goes_on(serving) -> None:
    # Do not use the validator here: Flask gives a 204 response a Content-Type, which wsgiref.validate rejects.
    flask = serving("flask_application")
    assert flask.get("/moved").headers["Location"] == "/echo/there"
    assert [flask.ask(method, "/empty").status_code for method in ("GET", "DELETE", "HEAD")] == [204] * 3
    assert "GET" in flask.ask("OPTIONS", "/empty").headers["Allow"]
    assert flask.get("/nowhere").status_code == 404
    assert flask.ask("PUT", "/").status_code == 405
    failed = flask.get("/failing")
    assert failed.status_code == 500
    assert "on purpose" not in failed.text
    assert flask.get("/echo/on").json()["path"] == "on"


# Django.


def test_django_takes_forms_and_files(django: Served) -> None:
    for size in (1000, len(MEGABYTE), 4 * len(MEGABYTE)):
        data = (MEGABYTE * 4)[:size]
        told = django.ask("POST", "/upload", data={"a": "é"}, files={"file": ("f.bin", data)}).json()
        assert told == {**told_of(data), "fields": {"a": "é"}}


@pytest.mark.parametrize("framed", [bytes, in_parts], ids=["length", "chunks"])
def test_django_takes_raw_bodies(django: Served, framed: Callable[[bytes], Any]) -> None:
    body = MEGABYTE[:500_000]
    assert django.ask("POST", "/raw", data=framed(body)).content == body


def test_django_streams_and_compresses(django: Served) -> None:
    answer = django.get("/stream")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.text.split() == [str(number) for number in range(1000)]
    assert django.get("/file").content == HERE.read_bytes()
    plain = django.get("/file", headers={"Accept-Encoding": "identity"})
    assert (plain.content, plain.headers["Content-Length"]) == (HERE.read_bytes(), str(HERE.stat().st_size))


def test_django_answers_without_bodies_and_with_errors(django: Served) -> None:
    assert django.get("/known").text == "known"
    assert django.get("/known", headers={"If-None-Match": '"known"'}).status_code == 304
    assert django.ask("HEAD", "/known").content == b""
    assert django.get("/nowhere").status_code == 404
    assert django.get("/upload").status_code == 405
    failed = django.get("/failing")
    assert failed.status_code == 500
    assert "on purpose" not in failed.text
    assert django.get("/known", headers={"Host": "evil"}).status_code == 400
    assert django.get("/known").text == "known"


# Bottle.


def test_bottle_sends_static_files(bottle: Served) -> None:
    path = f"/static/{HERE.name}"
    whole = bottle.get(path)
    assert whole.content == HERE.read_bytes()
    part = bottle.get(path, headers={"Range": "bytes=-20"})
    assert (part.status_code, part.content) == (206, HERE.read_bytes()[-20:])
    assert bottle.ask("HEAD", path).headers["Content-Length"] == str(HERE.stat().st_size)
    since = email.utils.formatdate(HERE.stat().st_mtime + 1, usegmt=True)
    assert bottle.get(path, headers={"If-Modified-Since": since}).status_code == 304
    assert bottle.get("/static/nothing").status_code == 404


def test_bottle_takes_forms_and_cookies(bottle: Served) -> None:
    assert bottle.ask("POST", "/form", data={"word": "hello"}).json() == {"word": "hello", "length": 10}
    assert bottle.get("/said").text == "hello"
    assert bottle.get("/refused").status_code == 403


@pytest.mark.parametrize("framed", [bytes, in_parts], ids=["length", "chunks"])
def test_bottle_takes_raw_bodies(bottle: Served, framed: Callable[[bytes], Any]) -> None:
    assert bottle.ask("POST", "/raw", data=framed(MEGABYTE)).content == MEGABYTE
    assert bottle.get("/parts").text == "one two three"


# WsgiDAV.

LOCK = b"""<?xml version="1.0"?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope>
<D:locktype><D:write/></D:locktype><D:owner>test</D:owner></D:lockinfo>"""


def names(answer: requests.Response) -> list[str]:
    assert answer.status_code == 207
    return re.findall("<[^>]*href>([^<]*)<", answer.text)


def test_webdav_collections_and_files(dav: Served) -> None:
    assert "2" in dav.ask("OPTIONS", "/").headers["DAV"]
    assert dav.ask("MKCOL", "/one").status_code == 201
    assert dav.ask("MKCOL", "/one").status_code == 405
    assert dav.ask("MKCOL", "/no/where").status_code == 409
    assert dav.ask("PUT", "/one/a.bin", data=MEGABYTE).status_code == 201
    assert dav.ask("PUT", "/one/b.bin", data=in_parts(MEGABYTE)).status_code == 201
    assert dav.ask("PUT", "/one/b.bin", data=in_parts(b"less")).status_code == 204
    assert dav.ask("PUT", "/one/caf%C3%A9", data=b"").status_code == 201
    assert dav.get("/one/a.bin").content == MEGABYTE
    assert dav.get("/one/a.bin", headers={"Range": "bytes=256-259"}).content == b"\0\1\2\3"
    assert dav.ask("HEAD", "/one/a.bin").headers["Content-Length"] == str(len(MEGABYTE))
    listed = names(dav.ask("PROPFIND", "/one", headers={"Depth": "1"}))
    assert sorted(listed) == ["/one/", "/one/a.bin", "/one/b.bin", "/one/caf%C3%A9"]
    assert names(dav.ask("PROPFIND", "/one", headers={"Depth": "0"})) == ["/one/"]


def test_webdav_copies_moves_and_deletes(dav: Served) -> None:
    assert dav.ask("MKCOL", "/two").status_code == 201
    assert dav.ask("PUT", "/two/a", data=b"a").status_code == 201
    assert dav.ask("COPY", "/two", headers={"Destination": dav.url + "/copied"}).status_code == 201
    assert dav.ask("MOVE", "/two/a", headers={"Destination": dav.url + "/two/b"}).status_code == 201
    assert [dav.get(path).status_code for path in ("/two/a", "/two/b", "/copied/a")] == [404, 200, 200]
    kept = {"Destination": dav.url + "/two/b", "Overwrite": "F"}
    assert dav.ask("COPY", "/copied/a", headers=kept).status_code == 412
    assert dav.ask("DELETE", "/two").status_code == 204
    assert dav.ask("DELETE", "/two").status_code == 404
    assert dav.get("/copied/a").content == b"a"


def test_webdav_locks(dav: Served) -> None:
    assert dav.ask("PUT", "/locked", data=b"first").status_code == 201
    locked = dav.ask("LOCK", "/locked", data=LOCK, headers={"Timeout": "Second-60"})
    assert locked.status_code == 200
    token = locked.headers["Lock-Token"]
    assert dav.ask("PUT", "/locked", data=b"second", headers={"If": f"({token})"}).status_code == 204
    assert dav.ask("PUT", "/locked", data=b"third").status_code == 423
    assert dav.ask("PUT", "/locked", data=MEGABYTE).status_code == 423
    assert dav.get("/locked").content == b"second"
    assert dav.ask("UNLOCK", "/locked", headers={"Lock-Token": token}).status_code == 204
    assert dav.ask("PUT", "/locked", data=b"fourth").status_code == 204
    assert dav.ask("DELETE", "/locked").status_code == 204
