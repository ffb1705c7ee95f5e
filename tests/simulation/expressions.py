"""DynamoDB's expressions, as far as Penstock's adapter uses them. Everything else raises Unsupported.

Values keep DynamoDB's types: {"S": "text"}, {"N": "1.5"}, {"SS": ["a"]}. Conditions and updates are compiled once
per expression and then called with an item and the request's values.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

Value = dict[str, Any]
Item = dict[str, Value]
Values = Mapping[str, Value]
Names = frozenset[tuple[str, str]]

Operand = Callable[[Item, Values], Value | None]
Condition = Callable[[Item, Values], bool]
Change = Callable[[Item, Item, Values], None]  # reads the old item, writes into the new one

_TOKEN = re.compile(r"\s*(<>|<=|>=|[=<>(),+-]|[#:]?\w+)")
_SETS = {"SS", "NS", "BS"}
_ORDERED = {"S", "N", "B"}


class Unsupported(Exception):
    """The simulation does not support this. Add it to the simulation first."""


class TypesDiffer(Exception):
    """An update adds a value of one type to an attribute of another one. DynamoDB rejects it."""


@lru_cache(maxsize=1_000)
def compile_condition(expression: str, names: Names) -> Condition:
    parser = _Parser(expression, names)
    condition = parser.either()
    parser.expect_end()
    return condition


@lru_cache(maxsize=1_000)
def compile_update(expression: str, names: Names) -> Change:
    parser = _Parser(expression, names)
    changes: list[Change] = []
    while not parser.at_end():
        changes += parser.clause()

    def apply(old: Item, new: Item, values: Values) -> None:
        for change in changes:
            change(old, new, values)

    return apply


@lru_cache(maxsize=1_000)
def compile_projection(expression: str, names: Names) -> tuple[str, ...]:
    parser = _Parser(expression, names)
    paths = [parser.path()]
    while parser.take(","):
        paths.append(parser.path())
    parser.expect_end()
    return tuple(paths)


class _Parser:
    """A recursive descent parser for one expression. Each method reads the part that it is named after."""

    def __init__(self, expression: str, names: Names) -> None:
        self._tokens = _tokens(expression)
        self._names = dict(names)
        self._at = 0

    def at_end(self) -> bool:
        return self._at == len(self._tokens)

    def expect_end(self) -> None:
        if not self.at_end():
            raise Unsupported(f"{self._tokens[self._at :]} is left over")

    def take(self, *wanted: str) -> str | None:
        """Return the next token if it is one of these, in upper or lower case."""
        if not self.at_end() and self._tokens[self._at].upper() in wanted:
            self._at += 1
            return self._tokens[self._at - 1].upper()
        return None

    def expect(self, wanted: str) -> None:
        if not self.take(wanted):
            raise Unsupported(f"{wanted} is expected in {self._tokens}, at {self._at}")

    def next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1]

    def path(self) -> str:
        token = self.next()
        return self._names[token] if token.startswith("#") else token

    # conditions

    def either(self) -> Condition:
        sides = [self._all()]
        while self.take("OR"):
            sides.append(self._all())
        return sides[0] if len(sides) == 1 else lambda item, values: any(side(item, values) for side in sides)

    def _all(self) -> Condition:
        sides = [self._negation()]
        while self.take("AND"):
            sides.append(self._negation())
        return sides[0] if len(sides) == 1 else lambda item, values: all(side(item, values) for side in sides)

    def _negation(self) -> Condition:
        if self.take("NOT"):
            negated = self._negation()
            return lambda item, values: not negated(item, values)
        if self.take("("):
            inner = self.either()
            self.expect(")")
            return inner
        return self._test()

    def _test(self) -> Condition:
        function = self.take("ATTRIBUTE_EXISTS", "ATTRIBUTE_NOT_EXISTS", "CONTAINS", "BEGINS_WITH")
        if function:
            return self._function(function)
        left = self.operand()
        if self.take("BETWEEN"):
            low = self.operand()
            self.expect("AND")
            high = self.operand()
            return lambda item, values: (
                _compare(left, ">=", low)(item, values) and _compare(left, "<=", high)(item, values)
            )
        if self.take("IN"):
            return self._one_of(left)
        sign = self.take("=", "<>", "<", "<=", ">", ">=")
        if sign is None:
            raise Unsupported(f"no comparison in {self._tokens}, at {self._at}")
        return _compare(left, sign, self.operand())

    def _function(self, name: str) -> Condition:
        self.expect("(")
        path = self.path()
        if name in {"ATTRIBUTE_EXISTS", "ATTRIBUTE_NOT_EXISTS"}:
            self.expect(")")
            wanted = name == "ATTRIBUTE_EXISTS"
            return lambda item, _: (path in item) is wanted
        self.expect(",")
        operand = self.operand()
        self.expect(")")
        test = _contains if name == "CONTAINS" else _begins_with
        return lambda item, values: test(item.get(path), operand(item, values))

    def _one_of(self, left: Operand) -> Condition:
        self.expect("(")
        choices = [self.operand()]
        while self.take(","):
            choices.append(self.operand())
        self.expect(")")
        tests = [_compare(left, "=", choice) for choice in choices]
        return lambda item, values: any(test(item, values) for test in tests)

    def operand(self) -> Operand:
        if self.take("IF_NOT_EXISTS"):
            self.expect("(")
            path = self.path()
            self.expect(",")
            otherwise = self.operand()
            self.expect(")")
            return lambda item, values: item.get(path) or otherwise(item, values)
        if self.take("SIZE"):
            self.expect("(")
            path = self.path()
            self.expect(")")
            return lambda item, _: _size(item.get(path))
        token = self.next()
        if token.startswith(":"):
            return lambda _, values: values[token]
        path = self._names[token] if token.startswith("#") else token
        return lambda item, _: item.get(path)

    # updates

    def clause(self) -> list[Change]:
        kind = self.take("SET", "ADD", "REMOVE", "DELETE")
        if kind is None:
            raise Unsupported(f"no clause begins in {self._tokens}, at {self._at}")
        action = {"SET": self._set, "ADD": self._add, "REMOVE": self._remove, "DELETE": self._delete}[kind]
        changes = [action()]
        while self.take(","):
            changes.append(action())
        return changes

    def _set(self) -> Change:
        path = self.path()
        self.expect("=")
        value = self.operand()
        sign = self.take("+", "-")
        if sign:
            value = _sum(value, self.operand(), 1 if sign == "+" else -1)

        def change(old: Item, new: Item, values: Values) -> None:
            result = value(old, values)
            if result is None:
                raise Unsupported(f"SET {path} to an attribute that is not there")
            new[path] = result

        return change

    def _add(self) -> Change:
        path, value = self.path(), self.operand()

        def change(old: Item, new: Item, values: Values) -> None:
            new[path] = _added(old.get(path), _there(value(old, values)))

        return change

    def _remove(self) -> Change:
        path = self.path()

        def change(_old: Item, new: Item, _values: Values) -> None:
            new.pop(path, None)

        return change

    def _delete(self) -> Change:
        path, value = self.path(), self.operand()

        def change(old: Item, new: Item, values: Values) -> None:
            kind, members = next(iter(_there(value(old, values)).items()))
            left = [member for member in old.get(path, {}).get(kind, []) if member not in members]
            if left:
                new[path] = {kind: left}
            else:
                new.pop(path, None)  # DynamoDB has no empty sets

        return change


def _tokens(expression: str) -> list[str]:
    tokens, at = [], 0
    text = expression.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Unsupported(f"{text[at:]!r} of {text!r}")
        tokens.append(match[1])
        at = match.end()
    return tokens


def _compare(left: Operand, sign: str, right: Operand) -> Condition:
    def test(item: Item, values: Values) -> bool:
        first, second = left(item, values), right(item, values)
        if first is None or second is None:
            return sign == "<>" and first is not second
        (kind, one), (other_kind, other) = next(iter(first.items())), next(iter(second.items()))
        if kind != other_kind:
            return sign == "<>"
        if kind in _SETS:
            one, other = set(one), set(other)
        elif kind == "N":
            one, other = Decimal(one), Decimal(other)
        return _holds(sign, one, other, ordered=kind in _ORDERED)

    return test


def _holds(sign: str, one: Any, other: Any, *, ordered: bool) -> bool:
    if sign == "=":
        return bool(one == other)
    if sign == "<>":
        return bool(one != other)
    if not ordered:
        return False
    return bool({"<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}[sign])


def _contains(value: Value | None, member: Value | None) -> bool:
    if value is None or member is None:
        return False
    kind, content = next(iter(value.items()))
    member_kind, wanted = next(iter(member.items()))
    if kind == "L":
        return member in content
    return kind in {member_kind, f"{member_kind}S"} and wanted in content


def _begins_with(value: Value | None, start: Value | None) -> bool:
    return value is not None and start is not None and "S" in value and value["S"].startswith(start["S"])


def _size(value: Value | None) -> Value | None:
    return None if value is None else {"N": str(len(next(iter(value.values()))))}


def _sum(left: Operand, right: Operand, sign: int) -> Operand:
    def value(item: Item, values: Values) -> Value:
        return _number(Decimal(_there(left(item, values))["N"]) + sign * Decimal(_there(right(item, values))["N"]))

    return value


def _added(old: Value | None, value: Value) -> Value:
    kind, content = next(iter(value.items()))
    if old is not None and kind not in old:
        raise TypesDiffer(f"ADD of {kind} to {next(iter(old))}")
    if kind == "N":
        return _number(Decimal((old or {"N": "0"})["N"]) + Decimal(content))
    if kind not in _SETS:
        raise Unsupported(f"ADD of {kind}")
    before = (old or {kind: []})[kind]
    return {kind: [*before, *(member for member in content if member not in before)]}


def _there(value: Value | None) -> Value:
    if value is None:
        raise Unsupported("an operand that is not there")
    return value


def _number(number: Decimal) -> Value:
    return {"N": format(number, "f")}
