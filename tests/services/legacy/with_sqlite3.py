"""The sample bank application on SQLite; it retries a statement while another connection has the lock.

SQLite's own wait for a lock would block the whole event loop, so its timeout is 0.
"""

import os
import sqlite3
import time
from typing import Any

from .bank import Bank
from .web import site

PATH = os.environ["LEGACY_SQLITE"]
TRIES = 5000


def connect() -> sqlite3.Connection:
    connection = sqlite3.connect(PATH, timeout=0, isolation_level="IMMEDIATE")
    connection.execute("pragma synchronous = off")
    return connection


class PatientBank(Bank):
    def rows(self, statement: str, *parameters: object) -> Any:
        for _ in range(TRIES):
            try:
                return super().rows(statement, *parameters)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
            time.sleep(0.002)
        raise TimeoutError("the database stays locked")


count = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000) select count(*) from n"
bank = PatientBank(connect, mark="?", lock="select ?", unlock="select ?", slow=count)
application = site(look=bank.in_transaction(bank.look), pay=bank.in_transaction(bank.pay))
