"""The sample bank application on MariaDB, with PyMySQL."""

import os
from urllib.parse import urlsplit

import pymysql

from .bank import Bank
from .web import site

RUN, SLOW, URL = os.environ["LEGACY_RUN"], os.environ["LEGACY_SLOW"], urlsplit(os.environ["LEGACY_MARIADB"])


def connect() -> pymysql.Connection:
    address = {"host": URL.hostname, "port": URL.port or 3306, "user": URL.username, "password": URL.password or ""}
    return pymysql.connect(**address, database=RUN, ssl_disabled=True)


bank = Bank(
    connect,
    mark="%s",
    lock=f"select get_lock(concat('{RUN}', ?), 20)",
    unlock=f"select release_lock(concat('{RUN}', ?))",
    slow=f"select sleep({SLOW})",
)
application = site(look=bank.in_transaction(bank.look), pay=bank.in_transaction(bank.pay))
