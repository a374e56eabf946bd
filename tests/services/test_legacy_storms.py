"""Tests of legacy code with connections, clients and tenants in thread-locals; requests are cut at random times."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("scenario", ["psycopg2", "psycopg", "scoped_session", "tenant"])
def test_a_cut_request_harms_nobody_else_on_postgresql(postgresql, legacy_storm, scenario: str) -> None:
    legacy_storm(scenario)


def test_a_cut_request_harms_nobody_else_on_mariadb(mariadb, legacy_storm) -> None:
    legacy_storm("pymysql")


def test_a_cut_request_harms_nobody_else_on_memcached(memcached, legacy_storm) -> None:
    legacy_storm("memcached")


@pytest.mark.parametrize("scenario", ["sqlite3", "http_client"])
def test_a_cut_request_harms_nobody_else(legacy_storm, scenario: str) -> None:
    legacy_storm(scenario)


def test_what_a_finished_request_has_left_hits_nobody_else(legacy_storm) -> None:
    legacy_storm("leftovers")


def test_a_cut_request_leaves_no_lock_of_python_held(legacy_storm) -> None:
    legacy_storm("locks")


@pytest.mark.parametrize("scenario", ["psycopg2", "psycopg", "pymysql", "tenant"])
def test_without_integrations_only_a_running_statement_goes_on(
    postgresql, mariadb, legacy_storm, scenario: str
) -> None:
    """When a request is cut, its connection is closed with its greenlet, which ends the transaction and the locks."""
    legacy_storm(scenario, "--no-integrations", slow=0.05)
