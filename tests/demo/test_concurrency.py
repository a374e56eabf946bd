"""Tests with many concurrent requests: in native threads of this process, and in greenlets of another process."""

import json
import re
import subprocess
import sys
import threading

GREENLETS = """
from gevent import monkey
monkey.patch_all()

import io, json, sys, time, gevent
from wsgiref.util import setup_testing_defaults
from intralb_gevent.demo import make_application

application = make_application(sys.argv[1])


def ask(method, path, query="", body=b""):
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query,
               "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    setup_testing_defaults(environ)
    statuses = []
    answer = application(environ, lambda status, headers: statuses.append(status))
    try:
        return statuses[0][:3], b"".join(answer).decode()
    finally:
        answer.close()


started = time.monotonic()
sleeping = [gevent.spawn(ask, "GET", "/slow", "seconds=0.2") for _ in range(50)]
writing = [gevent.spawn(ask, "POST", "/notes", "", b"text=greenlet+%d" % number) for number in range(50)]
gevent.joinall(sleeping + writing, raise_error=True)
print(json.dumps({
    "seconds": time.monotonic() - started,
    "statuses": sorted({greenlet.value[0] for greenlet in sleeping + writing}),
    "notes": ask("GET", "/notes")[1],
}))
"""
IMPORTED_ONLY = """
import sys, intralb_gevent.demo
print("gevent" in sys.modules)
"""


def python(code, *arguments, **environ):
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30, env=environ or None).stdout


def test_notes_and_counts_are_right_after_many_threads(client):
    ready, problems = threading.Barrier(8), []

    def visit(name):
        ready.wait()
        for number in range(10):
            written = client.post("/notes", {"text": f"{name} wrote {number}"}).status
            read = client.get("/notes", **{"intralb.worker": name}).status
            if (written, read) != (303, 200):
                problems.append((name, number, written, read))

    threads = [threading.Thread(target=visit, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert problems == []
    assert "The newest 50 of 83 notes." in client.get("/notes").text
    assert client.get("/notes?q=wrote+9").text.count("<li>") == 8
    status = client.get("/status").text
    assert '<th scope="row">notes</th><td>162</td><td>0</td>' in status
    assert re.findall(r"worker (\d)</th><td>(\d+)", status) == [(str(name), "10") for name in range(8)]


def test_slow_counts_the_others_that_were_answered_meanwhile(client):
    pages = []
    slow = threading.Thread(target=lambda: pages.append(client.get("/slow?seconds=0.3").text))
    slow.start()
    while '<th scope="row">slow</th><td>0</td><td>1</td>' not in client.get("/status").text:
        assert slow.is_alive()
    client.get("/healthz")
    slow.join(timeout=20)
    assert int(re.search(r"Meanwhile (\d+) other requests were answered", pages[0])[1]) >= 2


def test_under_gevent_sleeps_pass_together_and_every_note_is_kept(path):
    result = json.loads(python(GREENLETS, path))
    assert result["statuses"] == ["200", "303"]
    assert result["seconds"] < 5
    assert "The newest 50 of 53 notes." in result["notes"]
    assert len(set(re.findall(r"greenlet \d+", result["notes"]))) == 50


def test_importing_the_application_imports_no_gevent_and_creates_no_file(path, tmp_path):
    assert python(IMPORTED_ONLY, INTRALB_DEMO_DATABASE=path).strip() == "False"
    assert list(tmp_path.iterdir()) == []
