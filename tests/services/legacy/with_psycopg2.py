"""The sample bank application on PostgreSQL, with psycopg2."""

import os

import psycopg2

from .bank import Bank
from .waits import patch_psycopg
from .web import site

ADDRESS, RUN, LOCKS = os.environ["LEGACY_POSTGRESQL"], os.environ["LEGACY_RUN"], os.environ["LEGACY_LOCKS"]
SLOW = os.environ["LEGACY_SLOW"]

patch_psycopg()
bank = Bank(
    lambda: psycopg2.connect(ADDRESS, application_name=RUN, options=f"-c search_path={RUN}"),
    mark="%s",
    lock=f"select pg_advisory_lock({LOCKS}, ?)",
    unlock=f"select pg_advisory_unlock({LOCKS}, ?)",
    slow=f"select pg_sleep({SLOW})",
)
application = site(look=bank.in_transaction(bank.look), pay=bank.in_transaction(bank.pay))
