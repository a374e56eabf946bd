"""tox's environment `lowest` uses the lowest versions that setup.py allows; setup.py allows the installed versions."""

from __future__ import annotations

import configparser
import pathlib
import re
from importlib.metadata import requires, version

ROOT = pathlib.Path(__file__).parents[1]


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a version without trailing zeros."""
    return tuple(map(int, re.sub(r"(\.0)+$", "", text).split(".")))


def allowed() -> dict[str, str]:
    """Return the lowest version of each requirement of our package, without its extras."""
    required = "\n".join(each for each in requires("intralb-gevent") or () if "extra ==" not in each)
    return dict(re.findall(r"^([a-z]+)>=([0-9.]+)", required, re.MULTILINE))


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
