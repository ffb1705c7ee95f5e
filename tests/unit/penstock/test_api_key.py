"""The form of a key, and that a text with a key in it does not show the secret."""

import random
import re

import pytest

from penstock.api_key import (
    ApiKey,
    Redaction,
    Scope,
    digest_of,
    environment_of,
    hour_of,
    is_key,
    is_key_id,
    make_key,
    without_keys,
)

KEY = make_key("shop", random.Random(1).choice)  # the same in each process that runs tests


def test_key_can_be_found_by_scanners_and_has_enough_random_bits() -> None:
    assert re.fullmatch(r"pk_shop_[0-9A-Za-z]{12}[0-9A-Za-z]{32}[0-9A-Za-z]{6}", KEY.text)
    assert 62**32 > 2**160
    assert KEY.text.removeprefix("pk_shop_").startswith(KEY.id)
    assert len({make_key("shop").text for _ in range(100)}) == 100


def test_form_of_keys_does_not_change() -> None:
    """Keys are stored by clients for years, so the checksum of an old one must still be right."""
    key = make_key("shop", lambda alphabet: alphabet[10])
    assert key.text == "pk_shop_" + "A" * 44 + "01K1qp"
    assert is_key(key.text)
    assert (key.id, key.digest) == ("A" * 12, digest_of(key.text))


@pytest.mark.parametrize("position", [3, 8, 20, 45, 57])
def test_typing_error_is_noticed(position: int) -> None:
    other = "b" if KEY.text[position] == "a" else "a"
    assert not is_key(KEY.text[:position] + other + KEY.text[position + 1 :])


@pytest.mark.parametrize(
    "text", ["", "pk_", KEY.text[:-1], KEY.text + "a", KEY.text.upper(), " " + KEY.text, KEY.text + "\n", "é" * 58]
)
def test_other_text_is_no_key(text: str) -> None:
    assert not is_key(text)


def test_new_key_does_not_show_its_text() -> None:
    assert KEY.text not in repr(KEY)
    assert KEY.id in repr(KEY)


def test_text_shows_only_the_id_of_a_key() -> None:
    start = f"pk_shop_{KEY.id}"
    assert without_keys(f"/a/{KEY.text}?k={KEY.text}.") == f"/a/{start}...?k={start}...."
    assert without_keys(f"half: {KEY.text[:30]}") == f"half: {start}..."
    assert without_keys("pk_ and nothing") == "pk_ and nothing"


@pytest.mark.parametrize(
    ("name", "environment"),
    [("penstock", "penstock"), ("Shop-Staging_2", "shopstaging2"), ("a" * 40, "a" * 16), ("___", "key")],
)
def test_environment_of_keys_is_the_name_of_the_installation(name: str, environment: str) -> None:
    assert environment_of(name) == environment
    assert is_key(make_key(environment).text)


@pytest.mark.parametrize(("text", "is_id"), [(KEY.id, True), ("a" * 11, False), ("a" * 13, False), ("a/b" * 4, False)])
def test_id_of_a_key(text: str, is_id: bool) -> None:
    assert is_key_id(text) == is_id


def test_key_ends_at_the_earlier_of_its_ends() -> None:
    key = ApiKey("a", "b", "acme", frozenset(Scope), 0, expires_at=100, revoked_at=50)
    assert key.forgotten_at == 50 + 30 * 86_400
    assert (key.has_expired(99), key.has_expired(100)) == (False, True)


def test_use_is_noted_once_an_hour() -> None:
    key = ApiKey("a", "b", "acme", frozenset(), 0, used_at=hour_of(7_300))
    assert (key.used_at, key.is_unused_since(10_799), key.is_unused_since(10_800)) == (7_200, False, True)


def test_operator_key_is_cut_whole_whatever_it_looks_like() -> None:
    redaction = Redaction(f"{KEY.text}-and/more")
    assert redaction.cut(f"/{KEY.text}-and/more/x, {KEY.text}") == f"/***/x, pk_shop_{KEY.id}..."
    assert KEY.text not in repr(redaction)


@pytest.mark.parametrize("form", ["op~+/key", "op~0+~1key", "op~%2B%2Fkey"])
def test_operator_key_is_cut_in_pointers_and_urls(form: str) -> None:
    assert Redaction("op~+/key").cut(f"at /{form}/0") == "at /***/0"
