"""The two tables: users, and the answers of the operations that were performed."""

from datetime import UTC, date, datetime

from sqlalchemy import Column, DateTime, String, Table, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


def utc_now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    pass


class UserRow(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(320), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    born_on: Mapped[date]
    country: Mapped[str] = mapped_column(String(2))
    plan: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=utc_now)


#: The answer of each operation by its key. A row exists exactly if the work of the operation is committed.
#: It is a plain table, since no code needs its rows as objects.
answers = Table(
    "answers",
    Base.metadata,
    Column("key", Text, primary_key=True),
    # JSON. It is NULL only inside the transaction that performs the operation; no other transaction sees that.
    Column("answer", Text),
    Column("stored_at", DateTime(timezone=True), default=utc_now, nullable=False),
)

#: The accounts in a new database. The data file has rows with the same addresses.
STAFF = (
    {
        "email": "admin@penstock.example",
        "name": "Ingeborg Aas",
        "born_on": date(1971, 3, 14),
        "country": "NO",
    },
    {
        "email": "billing@penstock.example",
        "name": "Paweł Zieliński",
        "born_on": date(1984, 11, 2),
        "country": "PL",
    },
    {
        "email": "help@penstock.example",
        "name": "Siobhán Ní Bhriain",
        "born_on": date(1990, 6, 21),
        "country": "IE",
    },
    {
        "email": "press@penstock.example",
        "name": "Núria Ferrer",
        "born_on": date(1979, 1, 30),
        "country": "ES",
    },
    {
        "email": "security@penstock.example",
        "name": "Jürgen Weiß",
        "born_on": date(1966, 8, 9),
        "country": "DE",
    },
)
