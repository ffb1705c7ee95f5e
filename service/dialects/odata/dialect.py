"""The dialect as the HTTP program knows it.

Microsoft's client puts v1.0 in front of every path unless it is told otherwise, so the batches are there as well.
"""

import re

from penstock.api_key import Scope
from penstock.service.dialects.dialect import Dialect
from penstock.service.dialects.odata.answers import write_problem
from penstock.service.dialects.odata.batch import run_batch
from penstock.service.dialects.odata.monitor import batch_monitor, cancel_monitor
from penstock.service.route import Route

_PATH = re.compile(r"(/v1\.0)?/\$batch(/.*)?")


def _has_path(path: str) -> bool:
    return _PATH.fullmatch(path) is not None


ODATA = Dialect(
    "odata",
    tuple(
        route
        for root in ("", "/v1.0")
        for route in (
            Route("POST", f"{root}/$batch", run_batch, Scope.WRITE),
            Route("GET", f"{root}/$batch/{{batch_id}}", batch_monitor, Scope.READ),
            Route("DELETE", f"{root}/$batch/{{batch_id}}", cancel_monitor, Scope.WRITE),
        )
    ),
    _has_path,
    write_problem,
)
