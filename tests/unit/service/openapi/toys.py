"""Handlers of many kinds, whose bodies and results are described."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from penstock import Context, Operations, Reject

operations = Operations()


class Toy(BaseModel):
    """A toy."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "top"}]})

    name: str
    color: str = "red"


class Status(BaseModel):
    """A type with the name of one of Penstock's schemas."""

    is_broken: bool


class Health(BaseModel):
    """Another one with such a name."""

    kind: Literal["on"]


class TaggedToy(BaseModel):
    kind: Literal["toy"]


Tagged = Annotated[Health | TaggedToy, Field(discriminator="kind")]


@operations.post("/toys", status=201)
async def create_toy(toy: Toy) -> Toy:
    """Create a toy.

    Its name must be new.
    """
    return toy


@operations.get("/toys/{toy_id}/status")
def read_status(toy_id: int) -> Status:
    return Status(is_broken=toy_id < 0)


@operations.delete("/toys/{toy_id}", status=204)
async def delete_toy(toy_id: int) -> None:
    pass


@operations.patch("/files/{name:path}", bulk=True)
async def rename(name: list[str], changes: list[dict[str, str] | None]) -> list[int | Reject]:
    return [len(one) for one in name]


@operations.post("/v1.0/anything")
async def take(body: Any, context: Context) -> Any:
    return body


operations.put("/v1.0/anything")(take)
