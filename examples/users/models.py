"""The two tables: users, and what the operations on them answered."""

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


#: What the operation with this key answered. A row stands here exactly when the operation's work stands too.
#: No class of its own: these rows are never objects to anyone.
answers = Table(
    "answers",
    Base.metadata,
    Column("key", Text, primary_key=True),
    # JSON. Empty only inside the transaction that is at work on the operation: no other ever sees that.
    Column("answer", Text),
    Column("stored_at", DateTime(timezone=True), default=utc_now, nullable=False),
)

#: The accounts that the database begins with. The data file has rows that collide with them.
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
