"""The reader of the template: what it works out, and what it refuses by name."""

from pathlib import Path
from typing import Any

import pytest

from penstock.infra.cloudformation import Document, NotUnderstood, Stack, read_template

SOURCE = """
Parameters:
  Name: {Type: String, Default: shop}
  Seconds: {Type: Number, Default: 60}
  Needed: {Type: String}
Conditions:
  IsShop: !Equals [!Ref Name, shop]
  IsOther: !Not [!Condition IsShop]
Resources:
  One:
    Type: Thing
    Properties: VALUE
  Two:
    Type: Thing
    Condition: IsOther
  Three:
    Type: Other
"""


def read(value: str, folder: Path) -> Document:
    path = folder / "template.yaml"
    path.write_text(SOURCE.replace("VALUE", value))
    return read_template(path)


def stack(value: str, folder: Path, **parameters: str) -> Stack:
    return Stack(read(value, folder), parameters, lambda name, attribute: f"<{name}.{attribute}>")


@pytest.mark.parametrize(
    ("value", "resolved"),
    [
        ("{a: 1, b: [true, x]}", {"a": 1, "b": [True, "x"]}),  # what is no function stays as it is
        ("{a: !Ref Name}", {"a": "shop"}),
        ("{a: !Ref Seconds}", {"a": "60"}),  # parameters are text
        ("{a: {Ref: Name}}", {"a": "shop"}),  # the long form is the same
        ("{a: !Ref Three}", {"a": "<Three.Ref>"}),
        ("{a: !GetAtt Three.Arn}", {"a": "<Three.Arn>"}),
        ("{a: !GetAtt Three.Deep.Arn}", {"a": "<Three.Deep.Arn>"}),
        ('{a: !Sub "${Name}-${Three.Arn}-${AWS::Partition}-${!kept}"}', {"a": "shop-<Three.Arn>-aws-${kept}"}),
        ("{a: !Select [1, !Split [o, !Ref Name]]}", {"a": "p"}),
        ("{a: !If [IsShop, 1, 2], b: !If [IsOther, 1, 2]}", {"a": 1, "b": 2}),
        ("{a: !If [IsShop, !Ref AWS::NoValue, 2], b: [!Ref AWS::NoValue, 3]}", {"b": [3]}),
    ],
)
def test_it_works_out(value: str, resolved: Any, tmp_path: Path) -> None:
    assert stack(value, tmp_path).properties("One") == resolved


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{a: !Join ["-", [b, c]]}', "One: Fn::Join is not supported"),
        ("{a: !FindInMap [b, c, d]}", "One: Fn::FindInMap is not supported"),
        ("{a: !Ref Needed}", "One: the parameter Needed has no value"),
        ("{a: !Sub ['${x}', {x: 1}]}", "One: Fn::Sub with variables of its own"),
        ("{a: !Transform {Name: x}}", "!Transform of a mapping is not supported"),
    ],
)
def test_it_refuses_what_it_does_not_understand(value: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(NotUnderstood, match=words):
        stack(value, tmp_path).properties("One")


def test_it_refuses_a_parameter_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotUnderstood, match="no parameter Nmae"):
        stack("{}", tmp_path, Nmae="typo")


def test_it_refuses_what_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(NotUnderstood, match="Arn of Three is used, but Three is not created here"):
        Stack(read("{a: !GetAtt Three.Arn}", tmp_path), {}).properties("One")


@pytest.mark.parametrize(("name", "expected"), [("shop", ["One"]), ("other", ["One", "Two"])])
def test_resources_are_those_of_a_type_whose_condition_holds(name: str, expected: list[str], tmp_path: Path) -> None:
    assert list(stack("{}", tmp_path, Name=name).resources("Thing")) == expected
