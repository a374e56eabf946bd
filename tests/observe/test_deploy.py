"""Tests of deploy/alerts.yml and deploy/grafana.json, of the reference page, and that they name only what exists."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from intralb_gevent.observe.metrics.catalogue import METRICS, METRICS_BY_NAME
from intralb_gevent.observe.metrics.reference import document

ROOT = Path(__file__).parents[2]
ALERTS, DASHBOARD = ROOT / "deploy/alerts.yml", ROOT / "deploy/grafana.json"
NAME = re.compile(r"\b(?:intralb|process)_[a-z_]+\b")
SELECTOR = re.compile(r"\b((?:intralb|process)_[a-z_]+)\{([^}]*)\}")
GIVEN_BY_PROMETHEUS = {"job", "instance", "le"}


def metric_of(name: str) -> Any:
    found = METRICS_BY_NAME.get(name) or METRICS_BY_NAME.get(re.sub("_(bucket|count|sum)$", "", name))
    assert found is not None, f"{name} does not exist"
    return found


def expressions() -> dict[str, str]:
    """Return all expressions of the rules, of the dashboard and of the guide, by where they are."""
    text = "\n".join(line for line in ALERTS.read_text().splitlines() if not line.lstrip().startswith("#"))
    rules = re.split(r"^ +- alert: ", text, flags=re.MULTILINE)[1:]
    found = {rule.split()[0]: rule.split("expr:")[1].split("\n        labels:")[0] for rule in rules}
    board = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for variable in board["templating"]["list"]:
        found[f"variable {variable['name']}"] = variable.get("definition", "")
    guide = (ROOT / "docs/guides/observing.md").read_text()
    found |= dict(re.findall(r"^\| (.*) \| `(.*)` \|$", guide, re.MULTILINE))
    found |= {f"annotation {each['name']}": each["expr"] for each in board["annotations"]["list"]}
    return found


@pytest.mark.parametrize("place", expressions())
def test_expressions_name_metrics_and_labels_that_exist(place: str) -> None:
    expression = expressions()[place]
    for name in set(NAME.findall(re.sub(r"\{[^}]*\}|\([a-z, ]+\)", "", expression))):
        metric_of(name)
    for name, matchers in SELECTOR.findall(expression):
        labels = {matcher.split("=")[0].rstrip("!") for matcher in re.findall(r'\w+[!=]=?~?"[^"]*"', matchers)}
        assert labels <= {*metric_of(name).all_labels, *GIVEN_BY_PROMETHEUS}, name
        for label, value in re.findall(r'(\w+)!?=~?"([a-z_|]+)"', matchers):
            known = (metric_of(name).values or {}).get(label)
            assert known is None or set(value.split("|")) <= set(known), (name, label)


def test_the_dashboard_shows_every_metric_that_changes() -> None:
    shown = DASHBOARD.read_text()
    hidden = {metric.name for metric in METRICS if metric.name not in shown}
    assert hidden == {
        *("intralb_requests_received_total", "intralb_stolen_total", "intralb_workers_max", "intralb_ready"),
        *("intralb_log_records_dropped_total", "intralb_endings_dropped_total"),
        *("process_max_fds", "process_start_time_seconds"),
    }


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_promtool_accepts_the_alerts(program, command: list[str]) -> None:
    done = subprocess.run([program("promtool"), *command], cwd=ALERTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_explained() -> None:
    names = re.findall(r"alert: (\w+)", ALERTS.read_text())
    tests, guide = (ALERTS.parent / "alerts_test.yml").read_text(), (ROOT / "docs/guides/observing.md").read_text()
    for name in names:
        assert re.search(rf"alertname: {name}\n\s+exp_alerts:", tests), f"no test lets {name} fire"
        assert f"`{name}`" in guide


def test_the_reference_page_is_up_to_date() -> None:
    assert (ROOT / "docs/reference/metrics.md").read_text() == document()
