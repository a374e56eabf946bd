"""Find libraries that wait in C code, where monkey-patching has no effect.

While such a library waits, no other request runs. This check imports no library.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from .findings import Finding

__all__ = ["blocking_drivers"]


@dataclass(frozen=True)
class _Driver:
    """A library that may block; `module` is imported if the library's blocking variant is in use."""

    module: str
    title: str
    remedy: str
    blocks: Callable[[ModuleType], bool] = lambda module: True
    severity: Literal["warning", "hint"] = "warning"
    is_protected: bool = False
    """True if `protect()`, which `serve` calls, makes the library harmless."""


def blocking_drivers(protects: bool = False) -> list[Finding]:
    """Return a finding for each imported library that blocks the whole process while it waits.

    `protects` is True if the server calls `protect()`, which makes some of the libraries harmless.
    """
    drivers = [driver for driver in _DRIVERS if not (protects and driver.is_protected)]
    imported = [(driver, sys.modules.get(driver.module)) for driver in drivers]
    return [_finding(driver) for driver, module in imported if module is not None and driver.blocks(module)]


def _finding(driver: _Driver) -> Finding:
    blocks = "blocks" if driver.severity == "warning" else "may block"
    return Finding(
        driver.severity,
        f"{driver.title} {blocks} every request while it waits",
        "The library waits for the network in C code, where monkey-patching has no effect. While the library waits, "
        "no other request runs, and no deadline is enforced.",
        driver.remedy,
    )


def _has_no_wait_callback(psycopg2_extensions: ModuleType) -> bool:
    return psycopg2_extensions.get_wait_callback() is None


def _is_older_than_its_gevent_support(psycopg: ModuleType) -> bool:
    # psycopg's release notes say: "gevent is supported automatically from 3.1.14 on".
    numbers = re.findall(r"\d+", psycopg.__version__)
    return [int(number) for number in numbers[:3]] < [3, 1, 14]


def _is_thick(oracledb: ModuleType) -> bool:
    return not oracledb.is_thin_mode()


def _without(module: str) -> Callable[[ModuleType], bool]:
    """Return a function that returns True unless `module`, which makes the library harmless, is imported."""
    return lambda _: module not in sys.modules


_DRIVERS = (
    # Test for the submodule: if PyMySQL replaces MySQLdb, there is no MySQLdb._mysql.
    _Driver("MySQLdb._mysql", "mysqlclient (MySQLdb)", "use PyMySQL with pymysql.install_as_MySQLdb()"),
    _Driver(
        "_mysql_connector",
        "mysql-connector-python with its C extension",
        "connect with use_pure=True, if the application does not do so yet",
        severity="hint",
    ),
    _Driver("mariadb._mariadb", "the mariadb connector", "use PyMySQL"),
    _Driver(
        "psycopg2.extensions",
        "psycopg2 without a wait callback",
        "leave integrations on, call intralb_gevent.protect() before connecting, or use psycopg 3",
        _has_no_wait_callback,
        is_protected=True,
    ),
    _Driver(
        "psycopg",
        "psycopg before 3.1.14",
        "update psycopg: it supports gevent from version 3.1.14 on",
        _is_older_than_its_gevent_support,
    ),
    _Driver("cx_Oracle", "cx_Oracle", "use its successor oracledb in thin mode, which is its default"),
    _Driver("oracledb", "oracledb in thick mode", "use its thin mode: do not call init_oracle_client()", _is_thick),
    _Driver("pyodbc", "pyodbc", "use a driver in Python (python-tds for SQL Server)"),
    _Driver(
        "pymssql._mssql",
        "pymssql",
        "pass gevent's wait_read to pymssql.set_wait_callback(), if the application does not do so yet",
        severity="hint",
    ),
    _Driver("ibm_db", "ibm_db", "run its calls in gevent's thread pool: gevent.get_hub().threadpool.apply()"),
    _Driver("pylibmc", "pylibmc", "use pymemcache"),
    _Driver("pycurl", "pycurl", "use requests or urllib3"),
    _Driver("_ldap", "python-ldap", "use ldap3"),
    _Driver(
        "confluent_kafka.cimpl",
        "confluent_kafka",
        "call poll() with 0, and flush() and consumers in gevent's thread pool: gevent.get_hub().threadpool.apply()",
        severity="hint",
    ),
    _Driver(
        "grpc._cython.cygrpc",
        "grpc without its gevent support",
        "call grpc.experimental.gevent.init_gevent() before the first channel",
        _without("grpc.experimental.gevent"),
    ),
    _Driver("zmq", "zmq", "import zmq.green in its place", _without("zmq.green")),
)
