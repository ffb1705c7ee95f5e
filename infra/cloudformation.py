"""Reads a CloudFormation template as far as ours goes, for servers that know no CloudFormation. No I/O but the file.

What it does not understand it refuses by name, instead of guessing: a queue that is not quite the one described would
be worse than none. Parameters come as text, as CloudFormation gives them.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from penstock.errors import PenstockError

# What stands for an account where there is none.
PSEUDO_PARAMETERS = {
    "AWS::AccountId": "000000000000",
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "penstock",
}
NO_VALUE = object()
_VARIABLE = re.compile(r"\$\{([^!}][^}]*)\}")

Document = dict[str, Any]


class NotUnderstood(PenstockError):
    """The template says something that this reader does not know."""


class Stack:
    """A template with its parameters, and what each resource turned out to be once it is made.

    `made` is asked for `Ref`, as an attribute of that name, and for `Fn::GetAtt`.
    """

    def __init__(
        self, template: Document, parameters: Mapping[str, str], made: Callable[[str, str], str] | None = None
    ) -> None:
        self._template = template
        self._parameters = parameters
        self._made = made or _unmade
        self._functions: dict[str, Callable[[Any], Any]] = {
            "Ref": self._ref,
            "Fn::GetAtt": self._attribute,
            "Fn::Sub": self._sub,
            "Fn::If": self._if,
            "Fn::Select": lambda choice: self.resolve(choice[1])[int(choice[0])],
            "Fn::Split": lambda parts: str(self.resolve(parts[1])).split(parts[0]),
        }
        for name in set(parameters) - set(template["Parameters"]) - set(PSEUDO_PARAMETERS):
            raise NotUnderstood(f"the template has no parameter {name}")

    def resources(self, *types: str) -> dict[str, Document]:
        """Those of these types, or all, whose condition holds, in the template's order; not resolved."""
        return {
            name: resource
            for name, resource in self._template["Resources"].items()
            if (not types or resource["Type"] in types) and self._is_wanted(resource)
        }

    def properties(self, name: str) -> Document:
        """A resource's properties, with every function in them worked out."""
        try:
            resolved: Document = self.resolve(self._template["Resources"][name].get("Properties", {}))
        except NotUnderstood as error:
            raise NotUnderstood(f"{name}: {error}") from error
        return resolved

    def resolve(self, value: Any) -> Any:
        match value:
            case {**members} if len(members) == 1 and (name := next(iter(members))) in self._functions:
                return self._functions[name](members[name])
            case dict():
                return self._resolve_members(value)
            case list():
                return [one for one in map(self.resolve, value) if one is not NO_VALUE]
            case _:
                return value

    def holds(self, condition: str) -> bool:
        return self._truth(self._template["Conditions"][condition])

    def _is_wanted(self, resource: Document) -> bool:
        return "Condition" not in resource or self.holds(resource["Condition"])

    def _resolve_members(self, members: Document) -> Document:
        for name in members:
            if name.startswith("Fn::"):
                raise NotUnderstood(f"{name} is not known to this reader")
        resolved = {name: self.resolve(value) for name, value in members.items()}
        return {name: value for name, value in resolved.items() if value is not NO_VALUE}

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in PSEUDO_PARAMETERS:
            return self._parameters.get(name, PSEUDO_PARAMETERS[name])
        if name in self._template["Parameters"]:
            return self._parameter(name)
        return self._made(name, "Ref")

    def _parameter(self, name: str) -> str:
        if name in self._parameters:
            return self._parameters[name]
        default = self._template["Parameters"][name].get("Default")
        if default is None:
            raise NotUnderstood(f"the parameter {name} has no value")
        return str(default)

    def _attribute(self, place: list[str]) -> str:
        name, attribute = place
        return self._made(name, attribute)

    def _sub(self, text: Any) -> str:
        if not isinstance(text, str):
            raise NotUnderstood("Fn::Sub with variables of its own is not known to this reader")
        return _VARIABLE.sub(lambda found: str(self._variable(found[1])), text).replace("${!", "${")

    def _variable(self, name: str) -> Any:
        return self._attribute(name.split(".", 1)) if "." in name else self._ref(name)

    def _if(self, branches: list[Any]) -> Any:
        condition, then, otherwise = branches
        return self.resolve(then if self.holds(condition) else otherwise)

    def _truth(self, condition: Document) -> bool:
        match condition:
            case {"Fn::Equals": [one, other]}:
                return bool(self.resolve(one) == self.resolve(other))
            case {"Fn::Not": [one]}:
                return not self._truth(one)
            case {"Condition": str(name)}:
                return self.holds(name)
        raise NotUnderstood(f"the condition {condition} is not known to this reader")


@cache
def read_template(path: Path) -> Document:
    """The template with its short forms (`!Ref`, `!Sub`) as the long ones. Read once: change a copy only."""
    template: Document = yaml.load(path.read_text(), _Loader)  # noqa: S506 - a safe loader, as below
    return template


class _Loader(yaml.SafeLoader):
    """As PyYAML's safe one, and CloudFormation's short forms."""


def _long_form(loader: _Loader, suffix: str, node: yaml.Node) -> Document:
    name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
    match node:
        case yaml.ScalarNode():
            text = loader.construct_scalar(node)
            return {name: text.split(".", 1) if suffix == "GetAtt" else text}
        case yaml.SequenceNode():
            return {name: loader.construct_sequence(node, deep=True)}
    raise NotUnderstood(f"!{suffix} of a mapping is not known to this reader")


_Loader.add_multi_constructor("!", _long_form)


def _unmade(name: str, attribute: str) -> str:
    raise NotUnderstood(f"{attribute} of {name} is asked for, which is not made here")
