"""What tenants have sent is printed, and controls no terminal."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from penstock.cli.terminal import print_json, print_line


@pytest.mark.parametrize("show", [print_json, print_line])
def test_json_has_no_characters_of_control(show: Callable[[Any], None], capsys: pytest.CaptureFixture[str]) -> None:
    document = {"\x9b2J": ["\x1b[2J\x7f\x90é\u2028", {"a": "\n"}]}
    show(document)
    written = capsys.readouterr().out
    assert json.loads(written) == document
    assert not any("\x7f" <= character < "\xa0" or character < " " for character in written.replace("\n", ""))
    assert "é" in written
