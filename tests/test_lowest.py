"""The environment `lowest` of tox has the lowest versions that setup.py allows, and what is installed is allowed."""

from __future__ import annotations

import configparser
import pathlib
import re
from importlib.metadata import requires, version

ROOT = pathlib.Path(__file__).parents[1]


def numbers(text: str) -> tuple[int, ...]:
    """Return a version without the zeros at its end."""
    return tuple(map(int, re.sub(r"(\.0)+$", "", text).split(".")))


def allowed() -> dict[str, str]:
    """Return the lowest version of each package that ours is installed with."""
    return dict(re.findall(r"^([a-z]+)>=([0-9.]+)", "\n".join(requires("intralb-gevent") or ()), re.MULTILINE))


def test_the_lowest_versions_that_are_tested_are_those_that_are_allowed() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    pinned = dict(re.findall(r"^([a-z]+)==([0-9.]+)$", tox["testenv:lowest"]["deps"], re.MULTILINE))
    assert {name: numbers(lowest) for name, lowest in pinned.items()} == {
        name: numbers(lowest) for name, lowest in allowed().items()
    }
    assert {"gevent", "greenlet", "httptools"} <= pinned.keys()


def test_no_package_that_is_installed_is_older() -> None:
    for name in ("gevent", "greenlet", "httptools"):
        assert numbers(re.match(r"[0-9.]*[0-9]", version(name))[0]) >= numbers(allowed()[name])
