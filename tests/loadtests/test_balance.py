"""Tests of the measurement of how well processes share their clients."""

from collections import Counter

import pytest
from commands import linux, run

from loadtests.balance import Result


@linux
@pytest.mark.parametrize("server", ["intralb", "gunicorn"])
def test_a_run_prints_its_table_and_no_request_is_rejected(server: str) -> None:
    arguments = ("--servers", server, "--processes", 2, "--connections", 16, "--seconds", 1, "--handler-ms", 100)
    code, output, errors = run("balance", *arguments)
    assert code == 0, errors
    cells = output.splitlines()[-1].split("|")
    assert [cell.strip() for cell in cells[1:4]] == [server, "2", "16"]
    assert int(cells[4]) > 0
    assert int(cells[8]) == 0


def test_the_ceiling_is_that_of_the_slots_or_of_the_clients() -> None:
    assert Result("intralb", 4, 24, 1.0, 0.02).ceiling == pytest.approx(1200)
    assert Result("intralb", 4, 64, 1.0, 0.02).ceiling == pytest.approx(1600)
    result = Result("granian", 2, 64, 2.0, 0.02, Counter({"200": 800, "503": 5}), [0.02] * 98 + [0.5] * 2, (8, 8))
    assert result.share == pytest.approx(0.5)
    assert (result.quantile(0.5), result.quantile(0.99)) == (20.0, 500.0)
    assert result.row() == "| granian | 2 | 64 | 400 | 0.50 | 20 | 500 | 5 | 8/8 |"
