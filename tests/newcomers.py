"""Plays the people who read the README or a guide for the first time: `python tests/newcomers.py`.

Each of them gets a fresh virtual environment and a copy of the repository, and carries out the commands of the pages in
order (`transcript.py`), with an application that knows nothing of this package. The installations are not compiled,
which would take most of the time; other environments of tox test compiled packages.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

import apart
from transcript import Reader, blocks

ROOT = Path(__file__).parents[1]
README = "the reader of the README"
"""The newcomer who works in the checkout; the others have it in their home directory."""
NEWCOMERS = {
    README: ["README.md"],
    "the owner of a Flask application": [
        "docs/start/index.md",
        "docs/guides/testing.md",  # tests the application of the page before; the next page replaces it
        "docs/guides/moving-from-gunicorn.md",
        "docs/guides/moving-from-pywsgi.md",
        "docs/guides/flask.md",
    ],
    "the owner of a Django project": ["docs/guides/django.md"],
}


def environment(directory: Path) -> dict[str, str]:
    """Create a virtual environment, and return the variables of a shell in which it is active."""
    venv.create(directory, with_pip=True, symlinks=True)
    # What pip has downloaded before is shared: HOME is the newcomer's directory.
    cache = os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("INTRALB_", "PYTHON", "TOX"))}
    return {
        **kept,
        "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
        "INTRALB_COMPILE": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_CACHE_DIR": cache,
    }


def play(pages: Sequence[str], directory: Path, in_checkout: bool) -> int:
    """Carry out pages in a new home directory; return the number of commands. Raises Mismatch."""
    checkout = directory / "intralb_gevent"
    directory.mkdir()
    apart.copy(checkout, with_package=True)
    reader = Reader(checkout if in_checkout else directory, environment(directory / "environment"))
    try:
        return sum(reader.read(ROOT / page) for page in pages)
    finally:
        reader.stop(forget=True)


def forgotten() -> list[str]:
    """Return the pages whose commands nobody carries out."""
    played = {page for pages in NEWCOMERS.values() for page in pages}
    candidates = ["README.md", *(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md"))]
    return [page for page in candidates if page not in played and _has_commands(ROOT / page)]


def _has_commands(page: Path) -> bool:
    return any(block.language == "console" for block in blocks(page))


def main() -> int:
    """Play all newcomers; return the exit code."""
    if pages := forgotten():
        print("no newcomer reads", *pages)
        return 1
    chosen = sys.argv[1:]
    with tempfile.TemporaryDirectory() as home:
        for number, (name, pages) in enumerate(NEWCOMERS.items()):
            if not chosen or any(part in name for part in chosen):
                begin = time.monotonic()
                count = play(pages, Path(home, str(number)), in_checkout=name == README)
                print(f"{name}: {count} commands of {', '.join(pages)}, {time.monotonic() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
