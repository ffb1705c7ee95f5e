"""The table in docs/settings.md lists exactly the settings of penstock/settings.py."""

from pathlib import Path

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from penstock.settings import PREFIX, Settings

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_lists_every_setting_with_its_default_and_meaning() -> None:
    text = PAGE.read_text()
    start = text.index("| variable | default | meaning |")
    table = text[start:].split("\n\n")[0].splitlines()[2:]
    assert table == [_row(name, field) for name, field in Settings.model_fields.items()]


def _row(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    variable = alias.choices[0] if isinstance(alias, AliasChoices) else PREFIX + name.upper()
    return f"| `{variable}` | {_default(field.default)} | {field.description} |"


def _default(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value:,}"
        case _:
            return str(value)
