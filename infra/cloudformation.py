"""Reads our CloudFormation template for servers that do not support CloudFormation. Its only I/O is reading that file.

It supports what our template uses. Anything else is an error that names it, because a queue that differs from the
template is worse than no queue. Parameters are strings, as in CloudFormation.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from penstock.errors import PenstockError

# The pseudo parameters of an account, for servers that have none.
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
    """The template contains something that this reader does not support."""


class Stack:
    """A template with its parameters, and the attributes of the resources that have been created.

    `made` returns an attribute of a resource, for `Fn::GetAtt`, and for `Ref` as an attribute of that name.
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
        """Return the resources of these types, or all, whose condition holds. Their functions are not evaluated.

        They are in the order of the template.
        """
        return {
            name: resource
            for name, resource in self._template["Resources"].items()
            if (not types or resource["Type"] in types) and self._is_wanted(resource)
        }

    def properties(self, name: str) -> Document:
        """Return a resource's properties, with all functions evaluated."""
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
                raise NotUnderstood(f"{name} is not supported by this reader")
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
            raise NotUnderstood("Fn::Sub with variables of its own is not supported by this reader")
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
        raise NotUnderstood(f"the condition {condition} is not supported by this reader")


@cache
def read_template(path: Path) -> Document:
    """Return the template, with long forms for its short forms (`!Ref`, `!Sub`). It is cached: do not change it."""
    template: Document = yaml.load(path.read_text(), _Loader)  # noqa: S506 - a subclass of the safe loader
    return template


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also reads CloudFormation's short forms."""


def _long_form(loader: _Loader, suffix: str, node: yaml.Node) -> Document:
    name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
    match node:
        case yaml.ScalarNode():
            text = loader.construct_scalar(node)
            return {name: text.split(".", 1) if suffix == "GetAtt" else text}
        case yaml.SequenceNode():
            return {name: loader.construct_sequence(node, deep=True)}
    raise NotUnderstood(f"!{suffix} of a mapping is not supported by this reader")


_Loader.add_multi_constructor("!", _long_form)


def _unmade(name: str, attribute: str) -> str:
    raise NotUnderstood(f"{attribute} of {name} is used, but {name} is not created here")
