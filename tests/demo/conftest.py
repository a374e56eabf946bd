"""A client that calls the sample application like a server, with `wsgiref.validate` in between."""

import io
import pathlib
from typing import Any, NamedTuple
from urllib.parse import urlencode
from wsgiref.headers import Headers
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from intralb_gevent.demo import make_application


class Answer(NamedTuple):
    status: int
    headers: Headers
    parts: list[bytes]

    @property
    def text(self) -> str:
        return b"".join(self.parts).decode("utf-8")


class Client:
    def __init__(self, application: Any, **environ: Any) -> None:
        self._application = validator(application)
        self._environ = environ

    def get(self, url: str, **environ: Any) -> Answer:
        return self.ask("GET", url, **environ)

    def post(self, url: str, fields: dict[str, str], **environ: Any) -> Answer:
        body = urlencode(fields).encode("ascii")
        return self.send(url, body, CONTENT_LENGTH=str(len(body)), **environ)

    def send(self, url: str, body: bytes, **environ: Any) -> Answer:
        form = {"CONTENT_TYPE": "application/x-www-form-urlencoded", "wsgi.input": io.BytesIO(body)}
        return self.ask("POST", url, **{**form, **environ})

    def ask(self, method: str, url: str, **environ: Any) -> Answer:
        started: list[Any] = []
        body = self.begin(method, url, lambda status, headers, error=None: started.append((status, headers)), **environ)
        try:
            parts = list(body)
        finally:
            body.close()
        status, headers = started[0]
        return Answer(int(status[:3]), Headers(headers), parts)

    def begin(self, method: str, url: str, start_response: Any, **environ: Any) -> Any:
        path, _, query = url.partition("?")
        whole = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            **self._environ,
            **environ,
        }
        setup_testing_defaults(whole)
        return self._application(whole, lambda *given: start_response(*given) or (lambda data: None))


@pytest.fixture
def path(tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "notes.sqlite3")


@pytest.fixture
def new_client() -> type[Client]:
    return Client


@pytest.fixture
def client(path: str) -> Client:
    return Client(make_application(path))
