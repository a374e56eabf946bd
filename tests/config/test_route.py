"""Error messages for invalid route settings name the route and the field."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent import OptionError, Options, Route
from intralb_gevent.config.route import route_declarations, route_list
from intralb_gevent.policy.routetable import RouteTable

PATHS = st.builds("{}{}".format, st.text("/ab", max_size=3).map("/{}".format), st.sampled_from(["", "*"]))


def refusal(routes: object) -> str:
    with pytest.raises(OptionError) as caught:
        Options(routes=routes)  # type: ignore[arg-type]
    return str(caught.value)


def refusal_of_text(text: str) -> str:
    with pytest.raises(OptionError) as caught:
        route_list().read("routes", text)
    return str(caught.value)


def test_routes_are_kept_in_their_order() -> None:
    routes = [Route("/reports/*", request_timeout_seconds=120), Route("/feed", stream_timeout_seconds=3600)]
    assert Options(routes=routes).routes == tuple(routes)
    assert Options(routes=tuple(routes)).routes == tuple(routes)
    assert Options().routes == ()


def test_what_is_not_given_is_none() -> None:
    route = Route("/")
    assert [getattr(route, d.name) for d in route_declarations()] == ["/", *[None] * (len(route_declarations()) - 1)]


def test_only_the_path_is_given_by_position_and_nothing_can_be_changed() -> None:
    assert Route(path="/a") == Route("/a")
    with pytest.raises(TypeError):
        Route("/a", 5)  # type: ignore[misc]
    with pytest.raises(TypeError):
        Route()  # type: ignore[call-arg]
    with pytest.raises(FrozenInstanceError):
        Route("/a").path = "/b"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["request_timeout_seconds", "stream_timeout_seconds"])
@pytest.mark.parametrize("value", [-1, 0, "5", True, float("nan")])
def test_a_wrong_value_is_told_with_its_route(name: str, value: object) -> None:
    said = (
        f"routes: '/reports/*': {name}: {value!r} is not allowed; it must be a number of seconds, above 0 (1e9 at most)"
    )
    with pytest.raises(OptionError) as caught:
        Route("/reports/*", **{name: value})
    assert str(caught.value) == said
    assert refusal([{"path": "/reports/*", name: value}]) == said


@pytest.mark.parametrize(
    "path", ["", "reports", "/a*b", "/*/b", "/a**", "*", "/a?b=c", "/a#b", "/a\n", "/\ud800", None, 7]
)
def test_a_path_is_one_path_or_the_beginning_of_some(path: object) -> None:
    with pytest.raises(OptionError, match=r"path: .* is not allowed; it must be a path without a query"):
        Route(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("routes", ["/reports/*", {"/reports/*": 5}, Route("/"), [5], ["/"], None])
def test_routes_are_a_list_of_routes(routes: object) -> None:
    assert refusal(routes) == f"routes: {routes!r} is not allowed; it must be {route_list().allowed}"


def test_a_table_of_a_file_is_a_route() -> None:
    assert Options(routes=[{"path": "/a", "request_timeout_seconds": 3}]).routes == (  # type: ignore[list-item]
        Route("/a", request_timeout_seconds=3),
    )
    assert refusal([{"request_timeout_seconds": 3}]).startswith("routes: path: None is not allowed")
    assert refusal([{"path": "/a", "request_timeout": 3}]) == (
        "routes: '/a': 'request_timeout' is not a setting of a route; did you mean request_timeout_seconds?"
    )
    assert refusal([{"path": "/a", "colour": 3}]) == "routes: '/a': 'colour' is not a setting of a route"


def test_a_text_is_a_list_of_routes() -> None:
    text = "/reports/* request_timeout_seconds=120  stream_timeout_seconds=7; /export/* stream_timeout_seconds=600;/a ;"
    assert route_list().read("routes", text) == (
        Route("/reports/*", request_timeout_seconds=120, stream_timeout_seconds=7),
        Route("/export/*", stream_timeout_seconds=600),
        Route("/a"),
    )
    assert route_list().read("routes", " ; ") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/a request_timeout_seconds=-1", "'/a': request_timeout_seconds: -1.0 is not allowed; it must be a number"),
        ("/a request_timeout_seconds=x", "'/a': request_timeout_seconds: 'x' is not allowed; it must be a number"),
        ("/a request_timeout_seconds", "'/a': 'request_timeout_seconds' is not understood; write NAME=VALUE"),
        ("/a path=/b", "'/a': path is given twice"),
        ("/a stream_timeout_seconds=1 stream_timeout_seconds=2", "'/a': stream_timeout_seconds is given twice"),
        ("/a timeout=3", "'/a': 'timeout' is not a setting of a route"),
        ("a request_timeout_seconds=3", "'a': path: 'a' is not allowed; it must be a path"),
        ("request_timeout_seconds=3", "'request_timeout_seconds=3': path: 'request_timeout_seconds=3' is not allowed"),
    ],
)
def test_a_wrong_text_is_told_with_its_route(text: str, said: str) -> None:
    assert refusal_of_text(text).startswith(f"routes: {said}")
    assert refusal_of_text(f"/b; {text}").startswith(f"routes: {said}")


def test_a_route_that_can_never_match_is_refused() -> None:
    said = (
        "routes: '/reports/quick' is never reached, because '/reports/*' comes before it; "
        "the first route that matches applies, so move this route up"
    )
    assert refusal([Route("/"), Route("/reports/*"), Route("/reports/quick")]) == said
    assert "never reached" in refusal([Route("/a"), Route("/a")])
    assert len(Options(routes=[Route("/reports/quick"), Route("/reports/*"), Route("/*")]).routes) == 3


@given(st.lists(PATHS, max_size=5))
def test_every_route_of_a_list_that_is_not_refused_is_reached(paths: list[str]) -> None:
    try:
        routes = Options(routes=[Route(path) for path in paths]).routes
    except OptionError:
        found = RouteTable([(path, index) for index, path in enumerate(paths)], otherwise=-1)
        reached = {found.find(path.removesuffix("*") + end) for path in paths for end in ("", "c")}
        assert not set(range(len(paths))) <= reached
    else:
        table = RouteTable([(route.path, route) for route in routes], otherwise=None)
        assert {table.find(route.path.removesuffix("*") + end) for route in routes for end in ("", "c")} >= set(routes)


def test_every_declaration_is_complete() -> None:
    for declaration in route_declarations():
        assert declaration.help.endswith("."), declaration.name
        assert declaration.name == "path" or declaration.check(None) is None
