from penstock.chunk import Links
from penstock.errors import Flaw
from penstock.reading.link_reader import LinkReader

FAR = 10


class Reading:
    """Reads operations with the ids a, b, c and so on."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.links = LinkReader(lambda most: self.ids[-most:], FAR)

    def add(self, operation_id: str, *depends_on: str) -> Links | list[Flaw] | None:
        index = len(self.ids)
        self.ids.append(operation_id)
        if self.links.is_used:
            self.links.note(index, operation_id)
        return self.links.read(index, depends_on) if depends_on else None

    def runs(self, first: int = 0) -> list[list[int]]:
        return list(map(list, self.links.runs(first, len(self.ids))))


def details(read: Links | list[Flaw] | None) -> list[tuple[str, str]]:
    assert isinstance(read, list)
    return [(flaw.pointer, flaw.detail) for flaw in read]


def test_ids_become_indexes() -> None:
    reading = Reading()
    reading.add("a")
    reading.add("b")
    assert reading.add("c", "b", "a") == Links((1, 0))
    assert reading.add("d", "c") == Links((2,))


def test_each_error_has_a_pointer() -> None:
    reading = Reading()
    assert details(reading.add("a", "a")) == [("/dependsOn/0", "An operation cannot depend on itself.")]
    found = details(reading.add("b", "later", "a", "a"))
    assert found == [
        ("/dependsOn/0", "No operation with the id 'later' is among the 1 before this one."),
        ("/dependsOn/2", "The id 'a' is named twice."),
    ]
    first = Reading()
    assert "there is none before it" in details(first.add("a", "x"))[0][1]


def test_only_near_operations_can_be_named() -> None:
    reading = Reading()
    for index in range(FAR):
        reading.add(f"{index}")
    assert reading.add("near", "1") == Links((1,))
    assert "among the 9 before this one" in details(reading.add("far", "1"))[0][1]


def test_memory_for_ids_is_limited() -> None:
    reading = Reading()
    reading.add("a")
    reading.add("b", "a")
    for index in range(100 * FAR):
        assert reading.add(f"{index}", "b" if index == 0 else f"{index - 1}") is not None
    assert len(reading.links._index_of) <= 3 * FAR


def test_linked_operations_stay_together_with_what_is_between() -> None:
    reading = Reading()
    for operation_id, *depends_on in [("a",), ("b",), ("c",), ("d", "b"), ("e",), ("f", "e"), ("g",)]:
        reading.add(operation_id, *depends_on)
    assert reading.runs() == [[0], [1, 2, 3], [4, 5], [6]]


def test_link_with_what_is_planned_is_found() -> None:
    reading = Reading()
    for operation_id, *depends_on in [("a",), ("b",), ("c", "a")]:
        reading.add(operation_id, *depends_on)
    assert reading.links.linked_before(1, 3) == range(3)
    assert reading.links.linked_before(0, 3) is None
