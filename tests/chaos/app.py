"""The application under chaos: it writes every run to a table, and one of its handlers kills its process."""

import asyncio
import os
from typing import Any

from pydantic import BaseModel

from penstock import Context, Operations
from tests.chaos.journal import Journal

APP = "tests.chaos.app:operations"
JOURNAL = "CHAOS_JOURNAL"
WORK_PATH = "/work"
POISON_PATH = "/poison"
POISON_EXIT = 9

operations = Operations()
journal = Journal(os.environ.get(JOURNAL, ""), os.environ.get("AWS_ENDPOINT_URL_DYNAMODB", ""))


class Work(BaseModel):
    seconds: float


@operations.post(WORK_PATH)
async def work(work: Work, context: Context[Any]) -> dict[str, int]:
    await journal.write(context)
    await asyncio.sleep(work.seconds)
    return {"pid": os.getpid()}


@operations.post(POISON_PATH)
async def kill_process(context: Context[Any]) -> None:
    await journal.write(context)
    os._exit(POISON_EXIT)
