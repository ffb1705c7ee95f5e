"""What was used lately is kept, and the rest is dropped."""

from penstock.latest import Latest


def test_earliest_value_is_dropped() -> None:
    latest = Latest[str, int](2)
    for number, name in enumerate("abc"):
        assert latest.put(name, number) == number
    assert list(latest.items()) == [("b", 1), ("c", 2)]


def test_value_that_is_put_in_again_is_the_latest() -> None:
    latest = Latest[str, int](2)
    for number, name in enumerate("abac"):
        latest.put(name, number)
    assert list(latest.items()) == [("a", 2), ("c", 3)]


def test_value_that_was_removed_makes_room() -> None:
    latest = Latest[str, int](2)
    for number, name in enumerate("ab"):
        latest.put(name, number)
    del latest["a"]
    latest.put("c", 2)
    assert list(latest) == ["b", "c"]
