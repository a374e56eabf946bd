"""The sample bank application with SQLAlchemy's `scoped_session`, on psycopg2, without `Session.remove()`."""

import os
import time
from typing import Any

from sqlalchemy import BigInteger, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker

from .waits import patch_psycopg
from .web import LONG, Page, Request, site, stage

ADDRESS, RUN, LOCKS = os.environ["LEGACY_POSTGRESQL"], os.environ["LEGACY_RUN"], os.environ["LEGACY_LOCKS"]
SLOW = os.environ["LEGACY_SLOW"]

patch_psycopg()
engine = create_engine(
    ADDRESS.replace("postgresql://", "postgresql+psycopg2://"),
    connect_args={"application_name": RUN, "options": f"-c search_path={RUN}"},
    pool_size=12,
    max_overflow=8,
    pool_timeout=20,
)
Session = scoped_session(sessionmaker(bind=engine))


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int]
    balance: Mapped[int] = mapped_column(BigInteger)


class Entry(Base):
    __tablename__ = "ledger"
    number: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int]


def wait() -> None:
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        Session.execute(text(f"select pg_sleep({SLOW})"))


def lock(user: int) -> None:
    """Acquire a lock that ends with the transaction; a connection in the pool would keep holding a session lock."""
    Session.execute(text("select pg_advisory_xact_lock(:locks, :user)"), {"locks": int(LOCKS), "user": user})


def in_transaction(page: Page) -> Page:
    def committed(request: Request) -> dict[str, Any]:
        stage(request, "connect", wait)
        session = Session()
        try:
            answer = page(request)
            stage(request, "commit", wait)
            session.commit()
            stage(request, "committed", wait)
        except Exception:
            session.rollback()
            raise
        return answer

    return committed


def look(request: Request) -> dict[str, Any]:
    number = Session.execute(text("select cast(:number as int)"), {"number": request.number}).scalar()
    stage(request, "look", wait)
    return {"numbers": [number], "owners": [Session.get(Account, request.user).owner]}


def pay(request: Request) -> dict[str, Any]:
    answer = look(request)
    lock(request.user)
    stage(request, "locked", wait)
    for number, change in sorted({request.user: -request.amount, request.other: request.amount}.items()):
        Session.get(Account, number, with_for_update=True, populate_existing=True).balance += change
        Session.add(Entry(number=request.number, account=number, amount=change))
        Session.flush()
        time.sleep(0.0005)
        stage(request, "half", wait)
    return answer


application = site(look=in_transaction(look), pay=in_transaction(pay))
