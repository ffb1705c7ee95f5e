"""The rules for users, and the messages of their rejections. They are the same for one user and for many."""

from datetime import UTC, date, datetime

from penstock import Reject

MINIMUM_AGE_YEARS = 16

COUNTRIES = frozenset({
    "AT", "BE", "CH", "CZ", "DE", "DK", "ES", "FI", "FR", "GB", "GR", "HU",
    "IE", "IS", "IT", "JP", "NL", "NO", "PL", "PT", "RO", "SE", "TR", "UA",
})  # fmt: skip


def unknown_user(user_id: int) -> Reject:
    return Reject(404, f"There is no user {user_id}.")


def email_taken(email: str) -> Reject:
    return Reject(409, f"The e-mail address {email} belongs to another user.")


def reject_unserved(country: str) -> None:
    if country not in COUNTRIES:
        raise Reject(422, f"We do not serve {country} yet.")


def reject_too_young(born_on: date) -> None:
    if age_on(datetime.now(UTC).date(), born_on) < MINIMUM_AGE_YEARS:
        raise Reject(403, f"Users are at least {MINIMUM_AGE_YEARS} years old.")


def age_on(day: date, born_on: date) -> int:
    had_birthday = (day.month, day.day) >= (born_on.month, born_on.day)
    return day.year - born_on.year - (not had_birthday)
