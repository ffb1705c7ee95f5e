"""The generators of clients are pinned, and their installation cannot hang."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.generated.tools import HERE, run


def test_npm_lock_pins_every_package_and_names_no_registry() -> None:
    declared = json.loads((HERE / "package.json").read_text())
    packages = json.loads((HERE / "package-lock.json").read_text())["packages"]
    root = packages.pop("")

    assert {kind: root[kind] for kind in ("dependencies", "devDependencies")} == {
        kind: declared[kind] for kind in ("dependencies", "devDependencies")
    }
    for name, one in packages.items():
        assert {"version", "integrity"} <= one.keys(), name
        assert "resolved" not in one, name


def test_installation_that_takes_too_long_ends_with_its_children(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)

    with pytest.raises(subprocess.TimeoutExpired):
        run(("sh", "-c", f"sleep 1000 > {pipe} & wait"), 0.2)

    assert os.read(reader, 1) == b""  # it waits as long as the child holds the other end
    os.close(reader)
