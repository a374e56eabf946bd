"""Tests with third-party clients; blocking clients run in native threads, while the hub serves them."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import json
import pathlib
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.validate import validator

import gevent
import h11
import pytest
import requests
from gevent import socket, subprocess

HERE = pathlib.Path(__file__)
PATIENCE = 10
MEGABYTE = bytes(range(256)) * 4096
TEXT = [("Content-Type", "text/plain")]


def tell(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Respond with a JSON description of the request."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    told = {
        "method": environ["REQUEST_METHOD"],
        "path": environ["PATH_INFO"].encode("latin-1").decode(),
        "query": environ["QUERY_STRING"],
        "protocol": environ["SERVER_PROTOCOL"],
        "port": environ["REMOTE_PORT"],
        "type": environ.get("CONTENT_TYPE"),
        "size": len(body),
        "sha": hashlib.sha256(body).hexdigest(),
        "text": body[:100].decode("latin-1"),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


def stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    for number in range(100):
        yield b"%05d" % number * 2000


def large(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [MEGABYTE * 5]


def file(environ: dict[str, Any], start_response: Any) -> Any:
    """Send the contents of this file, or the requested range of it."""
    opened, size = HERE.open("rb"), HERE.stat().st_size
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", environ.get("HTTP_RANGE", ""))
    first, last = (int(asked[1]), min(int(asked[2] or size), size - 1)) if asked else (0, size - 1)
    headers = [*TEXT, ("Accept-Ranges", "bytes"), ("Content-Length", str(last + 1 - first))]
    if asked:
        headers.append(("Content-Range", f"bytes {first}-{last}/{size}"))
    opened.seek(first)
    start_response("206 Partial Content" if asked else "200 OK", headers)
    return environ["wsgi.file_wrapper"](opened)


def moved(status: str) -> Callable[..., list[bytes]]:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(status, [*TEXT, ("Location", "/moved")])
        return [b"elsewhere"]

    return application


def nothing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("404 Not Found", TEXT)
    return [b"nothing here"]


PAGES = {
    "/stream": stream,
    "/large": large,
    "/file": file,
    "/303": moved("303 See Other"),
    "/307": moved("307 Temporary Redirect"),
    "/404": nothing,
}


def application(environ: dict[str, Any], start_response: Any) -> Any:
    return PAGES.get(environ["PATH_INFO"], tell)(environ, start_response)


@pytest.fixture
def server(serve: Callable[..., Any]) -> Any:
    return serve(validator(application), max_body_bytes=20_000_000)


@pytest.fixture
def url(server: Any) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def outside(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a blocking function in a native thread, while the hub continues to run."""
    return gevent.get_hub().threadpool.apply(function, arguments)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def in_parts(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 70_000):
        yield data[start : start + 70_000]


# http.client.


@pytest.fixture
def blocking(server: Any) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
    yield connection
    connection.close()


def test_http_client_asks_again_and_again_on_one_connection(server, blocking) -> None:
    def ask() -> list[tuple[int, int]]:
        answers = []
        for method, path in [("GET", "/"), ("HEAD", "/large"), ("GET", "/404"), ("GET", "/stream"), ("DELETE", "/x")]:
            blocking.request(method, path)
            answer = blocking.getresponse()
            answers.append((answer.status, len(answer.read())))
        return answers

    answers = outside(ask)
    assert [status for status, _ in answers] == [200, 200, 404, 200, 200]
    assert [size for _, size in answers[1:4]] == [0, len(b"nothing here"), 1_000_000]
    assert len(server.connections) == 1


def test_http_client_sends_bodies_by_length_and_in_chunks(blocking) -> None:
    def ask(body: Any, **arguments: Any) -> Any:
        blocking.request("POST", "/%C3%A9", body, **arguments)
        return json.load(blocking.getresponse())

    for body in (b"", b"small", MEGABYTE):
        for framed in (lambda: body, lambda: in_parts(body)):  # noqa: B023  # called before the next body
            told = outside(ask, framed())
            assert (told["path"], told["size"], told["sha"]) == ("/é", len(body), sha(body))


def test_http_client_of_http_1_0(server) -> None:
    class Old(http.client.HTTPConnection):
        _http_vsn, _http_vsn_str = 10, "HTTP/1.0"

    def ask() -> tuple[bytes, Any]:
        connection = Old("127.0.0.1", server.server_port, timeout=PATIENCE)
        connection.request("GET", "/stream")
        answer = connection.getresponse()
        streamed, length = answer.read(), answer.getheader("Transfer-Encoding")
        connection.request("GET", "/")
        told = json.load(connection.getresponse())
        connection.close()
        return streamed, (length, told["protocol"])

    streamed, rest = outside(ask)
    assert (len(streamed), rest) == (1_000_000, (None, "HTTP/1.0"))


# urllib.


def test_urllib(url) -> None:
    def ask() -> list[Any]:
        found: list[Any] = []
        with urllib.request.urlopen(f"{url}/a%20b?c=d", timeout=PATIENCE) as answer:
            found.append(json.load(answer)["path"])
        with urllib.request.urlopen(f"{url}/303", b"posted", timeout=PATIENCE) as answer:
            told = json.load(answer)
            found.append((told["method"], told["path"]))
        try:
            urllib.request.urlopen(f"{url}/404", timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            found.append((error.code, error.read()))
            error.close()
        asked = urllib.request.Request(f"{url}/file", headers={"Range": "bytes=3-12"})
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            found.append((answer.status, answer.read()))
        return found

    expected = ["/a b", ("GET", "/moved"), (404, b"nothing here"), (206, HERE.read_bytes()[3:13])]
    assert outside(ask) == expected


# requests.


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def asking(session: requests.Session, method: str, url: str, **arguments: Any) -> requests.Response:
    return outside(lambda: session.request(method, url, timeout=PATIENCE, **arguments))


def test_requests_keeps_its_connection(server, session, url) -> None:
    ports = set()
    for method, body in [("GET", None), ("POST", b"x"), ("PUT", MEGABYTE), ("POST", in_parts(MEGABYTE)), ("GET", None)]:
        ports.add(asking(session, method, url + "/", data=body).json()["port"])
        assert asking(session, "HEAD", url + "/").content == b""
    assert len(ports) == len(server.connections) == 1


def test_requests_streams_up_and_down(session, url) -> None:
    told = asking(session, "POST", url + "/up", data=in_parts(MEGABYTE * 3)).json()
    assert (told["size"], told["sha"]) == (3 * len(MEGABYTE), sha(MEGABYTE * 3))

    def by_piece() -> int:
        with session.get(url + "/stream", stream=True, timeout=PATIENCE) as answer:
            return sum(len(piece) for piece in answer.iter_content(1000))

    assert outside(by_piece) == 1_000_000
    assert asking(session, "GET", url + "/large").content == MEGABYTE * 5


def test_requests_follows_redirects_with_and_without_its_body(session, url) -> None:
    seen = asking(session, "POST", url + "/303", data=b"posted")
    assert [answer.status_code for answer in [*seen.history, seen]] == [303, 200]
    assert (seen.json()["method"], seen.json()["size"]) == ("GET", 0)
    again = asking(session, "POST", url + "/307", data=b"posted")
    assert (again.json()["method"], again.json()["text"]) == ("POST", "posted")


def test_requests_from_many_threads(server, url) -> None:
    def ask(number: int) -> list[int]:
        with requests.Session() as session:
            body = bytes([number]) * 10_000
            return [session.post(f"{url}/{turn}", data=body, timeout=PATIENCE).json()["size"] for turn in range(5)]

    def ask_all() -> list[list[int]]:
        with concurrent.futures.ThreadPoolExecutor(10) as threads:
            return list(threads.map(ask, range(20)))

    assert outside(ask_all) == [[10_000] * 5] * 20
    assert server.balancer.snapshot().outcomes["completed"] == 100


def test_requests_reads_why_its_large_body_is_refused(session, url) -> None:
    for body in (bytes(40_000_000), in_parts(bytes(40_000_000))):
        assert asking(session, "POST", url, data=body).status_code == 413


# curl.

curl_only = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(*arguments: str, data: bytes = b"") -> bytes:
    """Run curl to its end, while the hub continues to run."""
    command = ["curl", "-q", "-sS", "--max-time", str(PATIENCE), *arguments]
    done = subprocess.run(command, input=data, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, b"")
    return bytes(done.stdout)


@curl_only
def test_curl_asks_for_the_head(url) -> None:
    head = curl("-I", f"{url}/file").decode()
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {HERE.stat().st_size}\r\n" in head


@curl_only
@pytest.mark.parametrize("expecting", ["Expect: 100-continue", "Expect:"])
@pytest.mark.parametrize("size", [5, 100_000, 3_000_000])
def test_curl_uploads(url, tmp_path, expecting, size) -> None:
    body = (MEGABYTE * 3)[:size]
    (tmp_path / "upload").write_bytes(body)
    # Without a 100 response, curl would wait until its own time limit.
    patient = ("--expect100-timeout", "60", "-H", expecting)
    told = json.loads(curl(*patient, "-T", str(tmp_path / "upload"), f"{url}/up"))
    assert (told["method"], told["sha"]) == ("PUT", sha(body))


@curl_only
def test_curl_uploads_in_chunks_what_it_reads_from_a_pipe(url) -> None:
    told = json.loads(curl("-T", "-", f"{url}/up", data=MEGABYTE))
    assert (told["size"], told["sha"]) == (len(MEGABYTE), sha(MEGABYTE))


@curl_only
@pytest.mark.parametrize("expecting", ["Expect: 100-continue", "Expect:"])
def test_curl_is_told_that_its_body_is_too_large(url, tmp_path, expecting) -> None:
    with (tmp_path / "upload").open("wb") as upload:
        upload.truncate(40_000_000)
    sent = curl("-H", expecting, "-o", "/dev/null", "-w", "%{http_code}", "-T", str(tmp_path / "upload"), url)
    assert sent == b"413"


@curl_only
def test_curl_of_http_1_0(url) -> None:
    assert json.loads(curl("--http1.0", url))["protocol"] == "HTTP/1.0"
    assert len(curl("--http1.0", f"{url}/stream")) == 1_000_000


@curl_only
def test_curl_asks_for_http_2_and_is_content_with_less(url) -> None:
    assert json.loads(curl("--http2", url))["protocol"] == "HTTP/1.1"


@curl_only
def test_curl_keeps_its_connection(url) -> None:
    answers = curl("-w", "\n%{num_connects}\n", f"{url}/a", f"{url}/b", f"{url}/c").splitlines()
    assert [json.loads(told)["path"] for told in answers[::2]] == ["/a", "/b", "/c"]
    assert answers[1::2] == [b"1", b"0", b"0"]


@curl_only
def test_curl_posts_a_form_with_a_file(url, tmp_path) -> None:
    (tmp_path / "upload").write_bytes(MEGABYTE)
    told = json.loads(curl("-F", "word=hello", "-F", f"file=@{tmp_path / 'upload'}", url))
    assert told["type"].startswith("multipart/form-data; boundary=")
    assert told["size"] > len(MEGABYTE)
    assert 'name="word"' in told["text"]


@curl_only
def test_curl_asks_for_ranges_and_goes_on_where_it_was(url, tmp_path) -> None:
    whole = HERE.read_bytes()
    assert curl("-r", "10-19", f"{url}/file") == whole[10:20]
    (tmp_path / "begun").write_bytes(whole[:1000])
    curl("-C", "-", "-o", str(tmp_path / "begun"), f"{url}/file")
    assert (tmp_path / "begun").read_bytes() == whole


@curl_only
def test_curl_asks_what_the_server_can(serve) -> None:
    # Do not use wsgiref.validate, because it does not allow this path.
    url = f"http://127.0.0.1:{serve(application).server_port}"
    told = json.loads(curl("-X", "OPTIONS", "--request-target", "*", url))
    assert (told["method"], told["path"]) == ("OPTIONS", "*")


@curl_only
def test_curl_as_if_we_were_its_proxy(url) -> None:
    told = json.loads(curl("-x", url, "http://example.invalid/there?q"))
    assert (told["path"], told["query"]) == ("/there", "q")


# h11.


class Peer:
    """A client that h11 drives, so that all bytes are checked."""

    def __init__(self, server: Any) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.server_port), timeout=PATIENCE)
        self.connection = h11.Connection(h11.CLIENT)

    def say(self, *events: h11.Event) -> None:
        for event in events:
            self._socket.sendall(self.connection.send(event) or b"")

    def hear(self) -> h11.Event:
        while (event := self.connection.next_event()) is h11.NEED_DATA:
            self.connection.receive_data(self._socket.recv(65_536))
        return event

    def answer(self) -> tuple[h11.Response, bytes]:
        """Receive all data up to the end of the response."""
        head, body = self.hear(), b""
        assert isinstance(head, h11.Response)
        while isinstance(event := self.hear(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage)
        return head, body

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def peer(server) -> Iterator[Peer]:
    peer = Peer(server)
    yield peer
    peer.close()


def asked(method: str, target: str, *headers: tuple[str, str]) -> h11.Request:
    return h11.Request(method=method, target=target, headers=[("Host", "test"), *headers])


def test_h11_uploads_in_chunks_with_trailers(peer) -> None:
    for turn in range(3):
        peer.say(asked("POST", f"/{turn}", ("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")))
        peer.say(*(h11.Data(data=part) for part in in_parts(MEGABYTE)))
        peer.say(h11.EndOfMessage(headers=[("X-Sum", sha(MEGABYTE))]))
        told = json.loads(peer.answer()[1])
        assert (told["path"], told["sha"]) == (f"/{turn}", sha(MEGABYTE))
        peer.connection.start_next_cycle()


def test_h11_waits_for_100_continue(peer) -> None:
    for turn in range(3):
        peer.say(asked("PUT", f"/{turn}", ("Content-Length", "5"), ("Expect", "100-continue")))
        assert peer.connection.they_are_waiting_for_100_continue is False
        informed = peer.hear()
        assert isinstance(informed, h11.InformationalResponse)
        assert informed.status_code == 100
        peer.say(h11.Data(data=b"hello"), h11.EndOfMessage())
        assert json.loads(peer.answer()[1])["text"] == "hello"
        peer.connection.start_next_cycle()


def test_h11_is_refused_instead_of_100_continue(peer) -> None:
    peer.say(asked("PUT", "/", ("Content-Length", "999999999"), ("Expect", "100-continue")))
    head, _ = peer.answer()
    assert head.status_code == 413
    assert isinstance(peer.hear(), h11.ConnectionClosed)


@pytest.mark.parametrize("target", ["/", "/stream", "/large", "/file", "/404", "/303"])
def test_h11_finds_every_answer_and_its_head_well_formed(peer, target) -> None:
    for method in ("GET", "HEAD", "GET"):
        peer.say(asked(method, target), h11.EndOfMessage())
        _, body = peer.answer()
        assert bool(body) == (method == "GET")
        assert peer.connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
        peer.connection.start_next_cycle()


def test_h11_closes_when_it_said_so(peer) -> None:
    peer.say(asked("GET", "/", ("Connection", "close")), h11.EndOfMessage())
    head, _ = peer.answer()
    assert dict(head.headers)[b"connection"] == b"close"
    assert isinstance(peer.hear(), h11.ConnectionClosed)


def test_pipelined_requests_of_all_kinds_are_answered_in_order(server, connect) -> None:
    client = connect(server)
    targets = ["/stream", "/a", "/large", "/404", "/b", "/file", "/303", "/c"]
    upload = "POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n"
    client.send("".join(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n{upload}" for target in targets))
    for target in targets:
        answer, uploaded = client.reply(), client.reply("POST")
        assert (target == json.loads(answer.body)["path"]) if len(target) == 2 else answer.body
        assert json.loads(uploaded.body)["text"] == "abc"
    assert len(server.connections) == 1
