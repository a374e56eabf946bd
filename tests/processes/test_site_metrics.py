"""/metrics of a site with several processes: promtool accepts it, and the supervisor's counts survive a reload."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

PATIENCE = 120.0
"""Seconds for a step that starts processes, on a busy machine."""


def samples(site: Any, name: str) -> dict[str, float]:
    """Return the samples of a metric by the text of their labels."""
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", site.get("/metrics", site.admin)[1], re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def test_the_metrics_of_a_site(serve_site: Callable[..., Any]) -> None:
    site = serve_site()
    assert samples(site, "intralb_processes") == {'state="starting"': 0, 'state="ready"': 2, 'state="draining"': 0}
    assert samples(site, "intralb_reloads_total") == {'result="done"': 0, 'result="failed"': 0}
    assert set(samples(site, "process_open_fds")) == {'process="0"', 'process="1"'}
    for _ in range(10):
        assert site.get()[0] == 200
    before = samples(site, "intralb_requests_total")
    site.signal(signal.SIGHUP)
    site.until(lambda: site.serves(2, 2), PATIENCE)
    site.until(lambda: samples(site, "intralb_reloads_total") == {'result="done"': 1, 'result="failed"': 0})
    assert samples(site, "intralb_generation") == {"": 2}
    assert samples(site, "intralb_process_restarts_total")['cause="reload"'] == 2
    after = samples(site, "intralb_requests_total")
    assert all(after[labels] >= count for labels, count in before.items())
    assert after['lane="general",outcome="completed"'] == 10
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    text = site.get("/metrics", site.admin)[1]
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
