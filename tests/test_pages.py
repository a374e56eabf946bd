"""Every link from one page to another leads to a page, file or heading that exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from intralb_gevent.policy import cannedresponses

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "examples" / "README.md"])


def prose(page: Path) -> Iterator[str]:
    """Yield the lines of a page that are outside of code blocks."""
    in_code = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            in_code = not in_code
        elif not in_code:
            yield line


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site name them."""
    headings = (match[1] for line in prose(page) if (match := re.match(r"#+ (.*)", line)))
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower())) for heading in headings}


def links(page: Path) -> Iterator[str]:
    for line in prose(page):
        yield from (link for link in re.findall(r"\]\(([^)\s]+)\)", line) if not re.match(r"https?:", link))


def broken(page: Path) -> Iterator[str]:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists():
            yield f"{link}: there is no such file"
        elif anchor and anchor not in anchors(target):
            yield f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_page_and_a_heading(page: Path) -> None:
    assert not list(broken(page))


def test_the_reasons_are_listed() -> None:
    responses = [each for each in vars(cannedresponses).values() if isinstance(each, cannedresponses.CannedResponse)]
    page = (ROOT / "docs/reference/headers.md").read_text()
    rows = {match[1]: match[2] for match in re.finditer(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE)}
    assert rows == {each.reason: each.status[:3] for each in responses if each.reason}


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n[1](#a-page) [2](#elsewhere) [3](page.md#a-page) [4](missing.md)\n")
    assert list(broken(page)) == ["#elsewhere: there is no such heading", "missing.md: there is no such file"]
