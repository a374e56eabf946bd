"""The workflows name each action by the hash of a commit, so that its author cannot replace the code that runs."""

import re
from pathlib import Path

import pytest

WORKFLOWS = sorted((Path(__file__).parents[1] / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned(workflow: Path) -> None:
    actions = re.findall(r"uses: (.*)", workflow.read_text())
    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_permissions_are_restricted(workflow: Path) -> None:
    assert re.search(r"^permissions:( \{\}|\n  contents: read)$", workflow.read_text(), re.MULTILINE)
