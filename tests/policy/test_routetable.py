"""The first pattern that matches wins, and patterns are literal except for a final *."""

from hypothesis import given
from hypothesis import strategies as st

from intralb_gevent.policy.routetable import RouteTable

SHORT = st.text("/ab*é", max_size=6).map(lambda text: "/" + text)
PATTERNS = st.lists(st.tuples(st.text("/abé", max_size=4), st.booleans()), max_size=6)


def as_wsgi(path: str) -> str:
    return path.encode().decode("latin-1")


def test_one_path_or_all_that_begin_so() -> None:
    table = RouteTable([("/health", 1), ("/reports/*", 2)], otherwise=0)
    paths = ["/health", "/health/", "/healthy", "/reports", "/reports/", "/reports/2024/1", "/v1/reports/", "", "*"]
    assert [table.find(path) for path in paths] == [1, 0, 0, 0, 2, 2, 0, 0, 0]


def test_the_first_that_matches_counts() -> None:
    table = RouteTable([("/a/b", 1), ("/a/*", 2), ("/a/c", 3), ("/*", 4)], otherwise=0)
    assert [table.find(path) for path in ("/a/b", "/a/c", "/a/", "/a", "/")] == [1, 2, 2, 4, 4]


def test_without_patterns_it_has_one_rule() -> None:
    assert RouteTable([], otherwise=7).find("/a") == 7


def test_a_path_is_compared_as_the_bytes_that_pep_3333_makes_of_it() -> None:
    table = RouteTable([("/büro/*", 1), ("/日本", 2)], otherwise=0)
    assert [table.find(as_wsgi(path)) for path in ("/büro/x", "/日本", "/buro/x")] == [1, 2, 0]
    assert table.find("/büro/x") == 0


@given(PATTERNS, SHORT)
def test_it_finds_the_first_of_all_that_match(patterns: list[tuple[str, bool]], path: str) -> None:
    written = [(f"/{text}{'*' if begins else ''}", index) for index, (text, begins) in enumerate(patterns)]
    matching = [
        index
        for index, (text, begins) in enumerate(patterns)
        if (path.startswith("/" + text) if begins else path == "/" + text)
    ]
    assert RouteTable(written, otherwise=-1).find(as_wsgi(path)) == (matching[0] if matching else -1)
