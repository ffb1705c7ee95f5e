"""Microsoft's Graph client sends batches, unchanged.

`.ci/run` installs the client. Without it the test is skipped, also in CI.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.acceptance.conftest import Install
from tests.acceptance.generated.running import run, skip_without_node, start, tools_or_skip
from tests.acceptance.generated.tools import GRAPH
from tests.acceptance.installation import on_any_aws

pytestmark = [on_any_aws, pytest.mark.timeout(300)]


async def test_graph_client_sends_batches(install: Install, tmp_path: Path) -> None:
    skip_without_node()
    (tmp_path / "node_modules").symlink_to(tools_or_skip(GRAPH) / "node_modules")
    for name in ("package.json", "story.js"):
        shutil.copy(GRAPH.source / name, tmp_path)
    got = json.loads(await run("node", "story.js", await start(install), folder=tmp_path))
    assert got.pop("emails") == [f"user-{number}@example.com" for number in range(19)]
    assert got.pop("unknown") == {"code": "rejected", "message": "There is no user 999999."}
    assert got.pop("more") == [201] * 60
    assert got.pop("serial") == {"a": 201, "b": 409, "c": 424}
    assert got.pop("same") == {"a": 201, "b": 200, "c": 404}
    assert (got.pop("referring"), got.pop("looked")) == ([201, 200, 200, 204], "Grace")
    assert got.pop("stopping") == [201, 409, 424]
    assert got.pop("accepted") == 202
    assert got.pop("asked")[-1] == 200
    assert got.pop("later") == [*[201] * 130, 200]
    assert got.pop("lastEmail") == "user-1129@example.com"
    twice = "requests/1/id: An earlier request has the same id '5'. Ids must be unique."
    assert got.pop("twice") == {"status": 400, "code": "invalidRequest", "message": twice}
    assert got.pop("ended")["status"] == 409
    assert got.pop("deleted") == {"a": 204, "b": 200}
    assert not got
