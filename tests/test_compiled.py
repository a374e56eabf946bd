"""Tests that the installed package is compiled if, and only if, INTRALB_COMPILE requested a compiled package."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from intralb_gevent._mypyc import is_compiled

SETUP = (Path(__file__).parents[1] / "setup.py").read_text()
MODULES = re.findall(r'"((?:http|pool|policy|observe)/[a-z0-9]+)"', SETUP)
WANTED = os.environ.get("INTRALB_COMPILE")


@pytest.mark.skipif(WANTED is None, reason="INTRALB_COMPILE does not say how it was to be installed")
@pytest.mark.parametrize("module", MODULES)
def test_all_modules_or_none_are_compiled(module: str) -> None:
    assert is_compiled(module.replace("/", ".")) == (WANTED == "1")
