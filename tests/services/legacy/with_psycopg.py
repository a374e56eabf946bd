"""The sample bank application on PostgreSQL, with psycopg 3."""

import os

import psycopg

from .bank import Bank
from .web import site

ADDRESS, RUN, LOCKS = os.environ["LEGACY_POSTGRESQL"], os.environ["LEGACY_RUN"], os.environ["LEGACY_LOCKS"]
SLOW = os.environ["LEGACY_SLOW"]

bank = Bank(
    lambda: psycopg.connect(ADDRESS, application_name=RUN, options=f"-c search_path={RUN}"),
    mark="%s",
    lock=f"select pg_advisory_lock({LOCKS}, ?::int)",
    unlock=f"select pg_advisory_unlock({LOCKS}, ?::int)",
    slow=f"select pg_sleep({SLOW})",
)
application = site(look=bank.in_transaction(bank.look), pay=bank.in_transaction(bank.pay))
