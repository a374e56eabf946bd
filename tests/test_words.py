"""The prose of the package and its pages avoids words that the terms in docs/how/design.md have replaced."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import intralb_gevent

PACKAGE = Path(intralb_gevent.__file__).parent
PAGES = Path(__file__).parents[1]
RETIRED = {
    r"told": "report, pass or declare",
    r"whoever|somebody|nobody|anybody": "the thing that acts: the client, the handler, the slot",
    r"so many": "the number itself, or a limit",
    r"turn(s|ed)? away": "reject",
    r"giv(e|es|en|ing) up": "abandon",
    r"(its|their|a|the|in|take|takes|has) turns?": "an iteration, a batch, or in rotation",
    r"make room|makes room": "evict",
    r"told apart": "distinguish",
    r"refusals?|refused requests?|requests? (is|are|was|were) refused": "reject",
    r"decides nothing|it must not know": "what the module is for",
}
"""Regular expressions for retired words, each with its replacement."""


def comments(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers and lines of a module's comments and docstrings."""
    with file.open() as source:
        for token in tokenize.generate_tokens(source.readline):
            text = token.string.lstrip("rbuRBU")
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and text.startswith('"""')):
                yield from enumerate(io.StringIO(text), token.start[0])


def retired(lines: Iterator[tuple[int, str]]) -> list[str]:
    found = []
    for number, line in lines:
        for words, better in RETIRED.items():
            if match := re.search(rf"\b({words})\b", re.sub("`.*?`", "", line), re.IGNORECASE):
                found.append(f"line {number}: {match[0]!r} in {line.strip()!r}; write {better}")
    return found


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_comments_use_the_words_of_the_field(file: Path) -> None:
    assert not retired(comments(file))


@pytest.mark.parametrize("page", sorted([*PAGES.glob("*.md"), *PAGES.glob("docs/**/*.md")]), ids=lambda page: page.name)
def test_pages_use_the_words_of_the_field(page: Path) -> None:
    assert not retired(enumerate(page.read_text().splitlines(), 1))


def test_retired_words_are_found() -> None:
    assert retired(iter([(1, "Jobs that are given up."), (2, "A slot takes the next job.")])) == [
        "line 1: 'given up' in 'Jobs that are given up.'; write abandon"
    ]
