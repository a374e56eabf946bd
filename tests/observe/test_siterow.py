"""The verdict on a site, from what its processes publish in the site's table."""

from __future__ import annotations

from time import monotonic

import pytest

from intralb_gevent import LoadBalancer
from intralb_gevent.observe.siterow import SiteRow
from intralb_gevent.policy.sentences import Verdict
from intralb_gevent.supervise.table import READY, OwnRow, Table

WELL = Verdict("well", "well", 0.0, "All is well.")
BLOCKED = Verdict("alarm", "blocked", 4.0, "Blocked: code kept the event loop.")


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def site(table: Table) -> SiteRow:
    return SiteRow(claimed(table, 0), LoadBalancer(lambda environ, start_response: []), [])


def claimed(table: Table, index: int) -> OwnRow:
    row = OwnRow(table, index)
    row.state = READY
    row.beat(monotonic())
    return row


def test_a_process_is_not_well_before_it_has_published_its_verdict_on_a_blockage(table: Table, site: SiteRow) -> None:
    other = claimed(table, 1)
    assert site.verdict(WELL).kind == "well"
    other.beat(monotonic() - 4.0)
    assert ": the event loop has not run for 4.0 s" in site.verdict(WELL).text
    other.beat(monotonic())
    assert ": the event loop did not run for 4.0 s" in site.verdict(WELL).text
    other.write_data({"verdict": BLOCKED.as_dict()})
    other.write_problems(True)
    assert "code kept the event loop" in site.verdict(WELL).text
