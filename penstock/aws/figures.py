"""What the processes of the fleet have reported of their handlers, in the DynamoDB table.

item            pk              sk
figures         figures         process#<id>
"""

from penstock.aws.attributes import Item, binary, read_binary, read_seconds, read_text, seconds, text, whole_seconds
from penstock.aws.table import Table
from penstock.metrics.fleet import KEPT_SECONDS, FigureReport, decode_handlers, encode_handlers

_PK = "figures"
_PREFIX = "process#"
_END = "process$"  # sorts after every key with the prefix


class DynamoDbFigures:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def write_figures(self, report: FigureReport) -> None:
        await self._table.put(
            {
                "pk": text(_PK),
                "sk": text(f"{_PREFIX}{report.process}"),
                "at": seconds(report.at),
                "handlers": binary(encode_handlers(report.handlers)),
                "expires_at": whole_seconds(report.at + KEPT_SECONDS),
            }
        )

    async def read_figures(self, since: float) -> list[FigureReport]:
        found = [item async for item in self._table.query(_PK, _PREFIX, _END)]
        return [_from_item(item) for item in found if read_seconds(item, "at") >= since]


def _from_item(item: Item) -> FigureReport:
    process = read_text(item, "sk").removeprefix(_PREFIX)
    return FigureReport(process, read_seconds(item, "at"), decode_handlers(read_binary(item, "handlers")))
