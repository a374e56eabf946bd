"""Tests of the pages: content, links, errors, and the escaping of all text from clients."""

import html.parser
import re
import time

import pytest

from intralb_gevent.demo.requests import Refused, Request
from intralb_gevent.demo.routes import DeliberateFailure

PAGES = ["/", "/notes", "/notes?q=greenlets", "/notes/1", "/slow?seconds=0", "/stream?lines=1", "/status", "/nowhere"]
WITHOUT_END = {"meta", "link", "input", "img"}


class Outline(html.parser.HTMLParser):
    """A strict parser for pages. It collects links, and fails if tags are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.links, self.sources, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.links += [named["href"]] if tag == "a" else []
        self.sources += [named[name] for name in ("href", "src", "action") if name in named]
        if tag not in WITHOUT_END:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


class Deadline:
    def __init__(self, seconds):
        self._seconds = seconds

    def remaining(self):
        return self._seconds


@pytest.mark.parametrize("url", PAGES)
def test_every_page_is_whole_and_needs_nothing_from_elsewhere(client, url):
    answer = client.get(url)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert all(re.match(r"/(?!/)", source) for source in Outline(answer.text).sources)


@pytest.mark.parametrize("url", [*PAGES, "/healthz", "/static/style.css", "/static/icon.svg"])
def test_the_length_is_told_of_all_but_the_stream(client, url):
    answer = client.get(url)
    told = None if "stream" in url else str(len(answer.text.encode()))
    assert answer.headers["Content-Length"] == told


def test_home_links_to_every_page(client):
    links = set(Outline(client.get("/").text).links)
    assert links >= {"/", "/notes", "/slow", "/stream", "/fail", "/status", "/healthz"}
    quick = links - {"/slow", "/stream", "/fail"}
    assert {client.get(link).status for link in quick} == {200}


def test_links_follow_the_place_where_the_application_is_mounted(path, new_client, client):
    mounted = new_client(client._application, SCRIPT_NAME="/de mo")
    for url in PAGES:
        assert all(source.startswith("/de%20mo/") for source in Outline(mounted.get(url).text).sources)
    answer = mounted.post("/notes", {"text": "from below"})
    assert answer.headers["Location"] == "/de%20mo/notes"


def test_the_mount_point_itself_is_the_first_page(client):
    assert client.get("", SCRIPT_NAME="/demo").text.count("This very request") == 1


def test_home_tells_how_the_request_was_served(client):
    environ = {"intralb.worker": 7, "intralb.deadline": Deadline(4.25), "SERVER_SOFTWARE": "somebody/1.0"}
    text = client.get("/", **environ).text
    assert "<dd>7</dd>" in text
    assert "<dd>4.250 s</dd>" in text
    assert "Served by somebody/1.0." in text
    assert "Served by worker 7" in text


def test_a_deadline_that_has_passed_leaves_nothing(client):
    assert "<dd>0.000 s</dd>" in client.get("/", **{"intralb.deadline": Deadline(-0.5)}).text


def test_worker_0_is_a_worker(client):
    assert "Served by worker 0" in client.get("/", **{"intralb.worker": 0}).text


def test_without_a_balancer_home_says_so(client):
    text = client.get("/").text
    assert "No balancer is in front of this page." in text
    assert "<dd>no limit</dd>" in text


def test_each_thread_counts_its_own_requests(client):
    counts = [re.search(r"Requests so far</dt><dd>(\d+)", client.get("/").text)[1] for _ in range(3)]
    assert counts == ["1", "2", "3"]


def test_a_new_database_has_notes_to_look_at(client):
    text = client.get("/notes").text
    assert "3 notes, the newest first." in text
    assert text.count("<li>") == 3


def test_a_note_is_written_and_then_on_top(client):
    answer = client.post("/notes", {"text": "Schöne Grüße\r\naus Wien", "author": "Käthe"})
    assert (answer.status, answer.headers["Location"]) == (303, "/notes")
    first = client.get("/notes").text.partition("<li>")[2].partition("</li>")[0]
    assert "Schöne Grüße\naus Wien" in first
    assert "<b>Käthe</b>" in first
    assert "Schöne Grüße" in client.get("/notes/4").text


def test_what_somebody_writes_is_shown_as_text(client):
    client.post("/notes", {"text": "<script>alert(1)</script> {root} &amp;", "author": "\"'><img src=x>"})
    for url in ("/notes", "/notes/4", "/notes?q=%3Cscript%3E%22"):
        text = client.get(url).text
        Outline(text)
        assert "<script" not in text
        assert "<img src=x" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {root} &amp;amp;" in client.get("/notes/4").text


def test_a_note_without_a_name_is_by_somebody(client):
    client.post("/notes", {"text": "who am I"})
    assert "<b>somebody</b>" in client.get("/notes/4").text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "A note needs some text"),
        ({"text": " \n\t", "author": "Ada"}, "A note needs some text"),
        ({"text": "x" * 1001}, "The text has 1,001 characters; the maximum is 1,000."),
        ({"text": "x", "author": "y" * 61}, "The author has 61 characters; the maximum is 60."),
        ({f"field{number}": "x" for number in range(21)}, "more than 20 parameters"),
    ],
)
def test_a_note_that_cannot_be_kept_is_refused_with_the_reason(client, fields, said):
    answer = client.post("/notes", fields)
    assert answer.status == 400
    assert said in answer.text
    assert "3 notes" in client.get("/notes").text


def test_a_new_line_counts_once_as_the_browser_counts_it(client):
    assert client.post("/notes", {"text": "a" + "\r\n" * 998 + "b"}).status == 303


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"CONTENT_LENGTH": "20"}, 400),
        ({"CONTENT_LENGTH": "+6"}, 400),
        ({"CONTENT_LENGTH": "65537"}, 413),
        ({"CONTENT_LENGTH": "6", "CONTENT_TYPE": "application/json"}, 415),
        ({}, 400),
        ({"wsgi.input_terminated": True}, 303),
        ({"CONTENT_LENGTH": "6"}, 303),
        ({"CONTENT_LENGTH": "6", "CONTENT_TYPE": "application/x-www-form-urlencoded; charset=UTF-8"}, 303),
    ],
)
def test_the_body_is_read_within_what_its_headers_declare(client, environ, status):
    assert client.send("/notes", b"text=a", **environ).status == status


def test_a_length_with_more_digits_than_python_reads_is_too_large():
    request = Request({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "9" * 5000})
    with pytest.raises(Refused, match="65,536 bytes") as refusal:
        request.form()
    assert refusal.value.status == "413 Content Too Large"


def test_a_body_of_unknown_length_is_read_within_bounds(client):
    answer = client.send("/notes", b"text=" + b"a" * 70_000, **{"wsgi.input_terminated": True})
    assert answer.status == 413


@pytest.mark.parametrize(
    ("query", "found"), [("GREENLETS", 1), ("ada", 1), ("%25", 0), ("_", 0), ("nothing+of+this", 0), ("", 3)]
)
def test_search_finds_text_and_author_literally(client, query, found):
    assert client.get(f"/notes?q={query}").text.count("<li>") == found


@pytest.mark.parametrize("query", ["%C3%A9t%C3%A9", "été".encode().decode("latin-1")])
def test_search_understands_text_beyond_ascii(client, query):
    client.post("/notes", {"text": "un été"})
    text = client.get(f"/notes?q={query}").text
    assert "1 note of 4 with “été”" in text


def test_the_list_does_not_grow_without_bound(client):
    for number in range(52):
        client.post("/notes", {"text": f"common {number}"})
    assert client.get("/notes").text.count("<li>") == 50
    assert "The newest 50 of 55 notes." in client.get("/notes").text
    assert "The newest 50 with “common”" in client.get("/notes?q=common").text


@pytest.mark.parametrize("url", ["/notes/4", "/notes/0", "/notes/999999999999999999", "/notes/" + "9" * 40])
def test_a_note_that_is_not_there_is_not_found(client, url):
    answer = client.get(url)
    assert answer.status == 404
    assert "Not Found" in answer.text


@pytest.mark.parametrize("url", ["/nowhere", "/notes/", "/notes/one", "/\n", "/static/../store.py", "/static/x.css"])
def test_an_unknown_path_is_not_found_whatever_the_method(client, url):
    assert client.get(url).status == 404
    assert client.post(url, {}).status == 404


@pytest.mark.parametrize(
    ("method", "url", "allow"),
    [
        ("DELETE", "/notes", "GET, HEAD, POST"),
        ("POST", "/", "GET, HEAD"),
        ("PUT", "/notes/1", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("OPTIONS", "/slow", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(client, method, url, allow):
    answer = client.ask(method, url)
    assert answer.status == 405
    assert answer.headers["Allow"] == allow


@pytest.mark.parametrize("url", [*PAGES, "/slow?seconds=30", "/stream?lines=300", "/healthz", "/static/style.css"])
def test_head_answers_as_get_does_without_the_body_or_the_wait(client, url):
    asked = time.monotonic()
    answer = client.ask("HEAD", url)
    assert time.monotonic() - asked < 10
    assert answer.parts == []
    assert answer.status == (404 if url == "/nowhere" else 200)
    assert answer.headers["Content-Type"]


def test_slow_says_how_long_it_slept(client):
    assert "This request slept 0.02 s in time.sleep." in client.get("/slow?seconds=0.02").text
    assert "This request slept 0 s in time.sleep." in client.get("/slow?seconds=-5").text


def test_slow_sleeps_for_as_long_as_it_may_at_most(client, monkeypatch):
    monkeypatch.setattr("intralb_gevent.demo.routes.LONGEST_SLEEP", 0.03)
    assert "This request slept 0.03 s in time.sleep." in client.get("/slow?seconds=1e9").text


@pytest.mark.parametrize("url", ["/slow?seconds=soon", "/slow?seconds=nan", "/slow?seconds=inf", "/slow?seconds="])
def test_slow_refuses_what_is_not_a_number(client, url):
    answer = client.get(url)
    assert answer.status == 400
    assert "is not a number; write for example seconds=1." in answer.text


def test_slow_tells_the_time_left_to_the_deadline(client):
    assert "There were 4.2 s left" in client.get("/slow?seconds=0", **{"intralb.deadline": Deadline(4.25)}).text


def test_the_stream_comes_a_line_at_a_time(client):
    first, *lines, last = client.get("/stream?lines=3").parts
    assert b"<li>" not in first
    assert [line.count(b"<li>") for line in lines] == [1, 1, 1]
    assert last.endswith(b"</html>\n")


@pytest.mark.parametrize("url", ["/stream?lines=all", "/stream?lines=nan"])
def test_the_stream_refuses_what_is_not_a_number(client, url):
    assert client.get(url).status == 400


def test_the_stream_has_an_end_even_when_none_is_asked_for(client, monkeypatch):
    monkeypatch.setattr("intralb_gevent.demo.routes.LINE_SECONDS", 0)
    assert client.get("/stream?lines=1e18").text.count("<li>") == 300
    assert client.get("/stream").text.count("<li>") == 20


def test_fail_raises_through_the_application(client):
    with pytest.raises(DeliberateFailure):
        client.get("/fail")


def test_health_is_one_word(client):
    answer = client.get("/healthz")
    assert answer.text == "ok"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_the_stylesheet_is_served_whole_and_asks_for_nothing_else(client):
    answer = client.get("/static/style.css")
    assert answer.headers["Content-Type"] == "text/css; charset=utf-8"
    assert answer.text.count("{") == answer.text.count("}") > 20
    assert not re.search(r"url\(|@import", answer.text)
