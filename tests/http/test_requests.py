"""Tests of requests: as clients send them, and as the application receives them."""

import io
from wsgiref.validate import validator

import gevent
import pytest


@pytest.fixture
def environs():
    return []


@pytest.fixture
def server(serve, environs):
    def application(environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environs.append({**environ, "body": body})
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]

    return serve(validator(application))


def test_the_environ_says_what_pep_3333_wants(server, connect, environs) -> None:
    client = connect(server)
    client.get("/caf%C3%A9/a%2Fb?q=%20x&y", headers="X-Some-Thing: 1\r\nContent-Type: text/x\r\nUser-Agent: me\r\n")
    (environ,) = environs
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["SCRIPT_NAME"] == ""
    assert environ["PATH_INFO"] == "/caf\xc3\xa9/a/b"
    assert environ["QUERY_STRING"] == "q=%20x&y"
    assert environ["RAW_URI"] == "/caf%C3%A9/a%2Fb?q=%20x&y"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["SERVER_PORT"] == str(server.server_port)
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["REMOTE_PORT"] == str(client.socket.getsockname()[1])
    assert environ["HTTP_X_SOME_THING"] == "1"
    assert environ["CONTENT_TYPE"] == "text/x"
    assert environ["HTTP_USER_AGENT"] == "me"
    assert environ["wsgi.url_scheme"] == "http"
    assert "HTTP_CONTENT_TYPE" not in environ


def test_a_connection_is_kept_and_each_request_starts_afresh(server, connect, environs) -> None:
    client = connect(server)
    client.get("/1", headers="X-Once: 1\r\n")
    client.get("/2")
    assert [environ["PATH_INFO"] for environ in environs] == ["/1", "/2"]
    assert "HTTP_X_ONCE" not in environs[1]
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("request_head", "kept"),
    [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False),
        ("GET / HTTP/1.0\r\n\r\n", False),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_keep_alive_as_the_client_asks(server, connect, request_head, kept) -> None:
    client = connect(server)
    client.send(request_head)
    reply = client.reply()
    assert reply.status == 200
    if kept:
        client.send(request_head)
        assert client.reply().status == 200
    else:
        assert reply.headers["connection"] == "close"
        assert client.closed_by_server


def test_repeated_fields_are_joined(server, connect, environs) -> None:
    connect(server).get(headers="Cookie: a=1\r\nCookie: b=2\r\nX-List: 1\r\nx-list: 2\r\n")
    assert environs[0]["HTTP_COOKIE"] == "a=1; b=2"
    assert environs[0]["HTTP_X_LIST"] == "1,2"


def test_a_field_name_with_an_underscore_cannot_pose_as_one_with_a_hyphen(server, connect, environs) -> None:
    connect(server).get(headers="X_Forwarded_For: evil\r\n")
    assert "HTTP_X_FORWARDED_FOR" not in environs[0]


def test_pipelined_requests_are_answered_in_order(serve, connect) -> None:
    def application(environ, start_response):
        gevent.sleep(float(environ["QUERY_STRING"]))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    client = connect(serve(validator(application)))
    delays = [0.02, 0, 0.01, 0, 0]
    client.send("".join(f"GET /{n}?{delay} HTTP/1.1\r\nHost: x\r\n\r\n" for n, delay in enumerate(delays)))
    assert [client.reply().body for _ in delays] == [b"/0", b"/1", b"/2", b"/3", b"/4"]


def test_a_thousand_pipelined_requests_are_all_answered(serve, connect, echo) -> None:
    client = connect(serve(echo))
    sender = gevent.spawn(client.send, "".join(f"GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n" for n in range(1000)))
    assert [client.reply().headers["x-path"] for _ in range(1000)] == [f"/{n}" for n in range(1000)]
    sender.get()


def test_a_thousand_pipelined_requests_are_all_refused_when_full(serve, connect, eventually) -> None:
    def application(environ, start_response):
        gevent.sleep(60)

    server = serve(application, max_concurrent_per_router=1, queue_size=0, max_workers=1)
    blocker, client = connect(server), connect(server)
    blocker.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: server.balancer.snapshot().running)
    sender = gevent.spawn(client.send, "GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
    assert {client.reply().status for _ in range(1000)} == {503}
    sender.get()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_the_same_bytes_in_any_pieces_give_the_same_requests(server, connect, environs, step) -> None:
    client = connect(server)
    data = (
        b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX-Long: " + b"v" * 50 + b"\r\n\r\nhello"
        b"PUT /d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n"
        b"GET /e HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    for start in range(0, len(data), step):
        client.send(data[start : start + step])
        gevent.sleep(0)
    assert [client.reply().body for _ in range(3)] == [b"hello", b"abcde", b""]
    assert [environ["REQUEST_METHOD"] + environ["PATH_INFO"] for environ in environs] == ["POST/a", "PUT/d", "GET/e"]
    assert [environ.get("CONTENT_LENGTH") for environ in environs] == ["5", "5", None]


def test_large_bodies_arrive_whole_by_length_and_chunked(server, connect) -> None:
    body = bytes(range(256)) * 4096
    by_length = connect(server)
    by_length.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert by_length.reply("POST").body == body
    chunked = connect(server)
    chunked.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    for start in range(0, len(body), 10_000):
        part = body[start : start + 10_000]
        chunked.send(b"%x\r\n%b\r\n" % (len(part), part))
    chunked.send(b"0\r\n\r\n")
    assert chunked.reply("POST").body == body


@pytest.mark.parametrize(("limit", "in_memory"), [(10_000_000, True), (500_000, False)])
def test_bodies_beyond_the_budget_go_to_files_and_all_is_given_back(
    serve, connect, eventually, monkeypatch, limit, in_memory
) -> None:
    monkeypatch.setattr("intralb_gevent.http.server.BODIES_IN_MEMORY_BYTES", limit)
    door, kinds = gevent.event.Event(), []

    def application(environ, start_response):
        kinds.append(isinstance(environ["wsgi.input"], io.BytesIO))
        door.wait()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["wsgi.input"].read()]

    server = serve(application)
    body = bytes(range(256)) * 2000
    clients = [connect(server) for _ in range(3)]
    for client in clients:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    eventually(lambda: len(kinds) == 3)
    assert all(kinds) == in_memory
    assert 0 <= server.shared.bodies.taken <= limit
    door.set()
    assert [client.reply("POST").body for client in clients] == [body] * 3
    half = connect(server)
    half.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" + body)
    half.close()
    eventually(lambda: server.shared.bodies.taken == 0)


def test_trailers_do_not_become_headers(server, connect, environs) -> None:
    client = connect(server)
    client.send("POST / HTTP/1.1\r\nHost: x\r\nX-Role: guest\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.send("1\r\na\r\n0\r\nX-Role: admin\r\nX-More: 1\r\n\r\n")
    assert client.reply("POST").body == b"a"
    assert environs[0]["HTTP_X_ROLE"] == "guest"
    assert "HTTP_X_MORE" not in environs[0]


def test_a_body_is_read_by_line_too(serve, connect) -> None:
    def application(environ, start_response):
        stream = environ["wsgi.input"]
        lines = [stream.readline(), *stream.readlines(), stream.read(10)]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [repr(lines).encode()]

    client = connect(serve(application))
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\na\nb\ncd")
    assert client.reply("POST").body == repr([b"a\n", b"b\n", b"cd", b""]).encode()


def test_an_unread_body_does_not_become_the_next_request(serve, connect) -> None:
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    client = connect(serve(application))
    client.send("POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 27\r\n\r\nGET /evil HTTP/1.1\r\nHost: x")
    assert client.reply("POST").body == b"/1"
    assert client.get("/2").body == b"/2"


def test_expect_100_continue(server, connect) -> None:
    client = connect(server)
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert client.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send("hello")
    assert client.reply("POST").body == b"hello"


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        ("http://other/x?y", "other", "/x"),
        ("HTTP://other:81", "other:81", "/"),
        ("http://other?y", "other", "/"),
    ],
)
def test_absolute_targets_name_the_host(server, connect, environs, target, host, path) -> None:
    assert connect(server).get(target).status == 200
    assert (environs[0]["HTTP_HOST"], environs[0]["PATH_INFO"]) == (host, path)


def test_options_asterisk(serve, connect, echo) -> None:
    assert connect(serve(echo)).get("*", "OPTIONS").headers["x-path"] == "*"


def test_an_upgrade_that_is_not_spoken_is_served_as_it_is(server, connect) -> None:
    client = connect(server)
    reply = client.get(headers="Connection: Upgrade\r\nUpgrade: websocket\r\n")
    assert reply.status == 200
    assert client.get().status == 200


HOST = "Host: x\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\n{HOST}{HOST}\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET /\r\n\r\n", 505),
        (f"GET / HTTP/2.0\r\n{HOST}\r\n", 505),
        (f"GET x HTTP/1.1\r\n{HOST}\r\n", 400),
        (f"GET * HTTP/1.1\r\n{HOST}\r\n", 400),
        (f"GET /#x HTTP/1.1\r\n{HOST}\r\n", 400),
        (f"GET ftp://x/ HTTP/1.1\r\n{HOST}\r\n", 400),
        ("CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", 501),
        (f"GET / HTTP/1.1\r\n{HOST}X : y\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\n{HOST}X: y\r\n z\r\n\r\n", 400),
        (f"GET / HTTP/1.1\n{HOST}\n", 400),
        (f"GET / HTTP/1.1\r\n{HOST}X: \0\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Length: +1\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Type: a\r\nContent-Type: b\r\n\r\n", 400),
        (f"POST / HTTP/1.1\r\n{HOST}Content-Length: 99999999999\r\n\r\n", 413),
        (f"POST / HTTP/1.1\r\n{HOST}Expect: the-unexpected\r\nContent-Length: 1\r\n\r\n", 417),
        (f"GET /{'x' * 9000} HTTP/1.1\r\n{HOST}\r\n", 414),
        (f"GET /{'x' * 70000}", 414),
        (f"GET / HTTP/1.1\r\n{HOST}X: {'x' * 50_000}\r\n\r\n", 431),
        (f"GET / HTTP/1.1\r\n{HOST}X: {'x' * 100_000}", 431),
        (f"GET / HTTP/1.1\r\n{HOST}" + "X: y\r\n" * 200 + "\r\n", 431),
    ],
)
def test_bad_input_gets_its_own_status_and_never_reaches_the_application(
    server, connect, environs, eventually, data, status
) -> None:
    client = connect(server)
    client.send(data)
    reply = client.reply()
    assert reply.status == status
    assert reply.headers["connection"] == "close"
    assert client.closed_by_server
    client.close()
    eventually(lambda: not server.connections)
    assert not environs
    assert server.balancer.snapshot().submitted == 0


def test_what_came_before_bad_input_is_answered_first(serve, connect) -> None:
    def application(environ, start_response):
        gevent.sleep(0.01)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"good"]

    client = connect(serve(application))
    client.send(f"GET / HTTP/1.1\r\n{HOST}\r\nnonsense\r\n\r\n")
    assert client.reply().body == b"good"
    assert client.reply().status == 400
    assert client.closed_by_server
