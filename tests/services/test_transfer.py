"""A transfer between two accounts under random aborts: the sum never changes."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_sum_never_changes(postgresql, storm, driver) -> None:
    storm(f"transfer_{driver}", aborted=300, normal=600)
