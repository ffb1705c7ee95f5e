"""The bodies and results of the operations.

These models are validated before a batch is accepted, so one invalid body rejects the whole batch. Rules that depend on
the picture itself (is it a picture, is it too large) are checked by the handlers and fail only one operation.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

#: One segment of a path: no slash, no leading dot, and no character with a meaning for a shell, a URL or S3.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]

#: A key as in `Made.key`.
Key = Annotated[str, StringConstraints(pattern=r"^made/[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[a-z0-9.-]{1,60}$")]

FilterKind = Literal["blur", "sharpen", "grayscale", "autocontrast"]
OutputFormat = Literal["jpeg", "png", "webp"]


class Thumbnail(BaseModel):
    """A thumbnail that fits into a square with sides of `size` pixels."""

    model_config = ConfigDict(extra="forbid")

    size: int = Field(ge=16, le=1024)


class Filter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: FilterKind


class Conversion(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: OutputFormat
    quality: int | None = Field(default=None, ge=1, le=95)

    @model_validator(mode="after")
    def png_has_no_quality(self) -> "Conversion":
        if self.format == "png" and self.quality is not None:
            raise ValueError("Remove the quality: PNG is lossless.")
        return self


class Made(BaseModel):
    """A picture that was made, with its key in the store."""

    key: str
    format: OutputFormat
    width: int
    height: int
    size_bytes: int


class NewUpload(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name


class Upload(BaseModel):
    """Permission to upload one picture: POST a form to `url`, with all `fields` first and then the field `file`."""

    name: str
    url: str
    fields: dict[str, str]
    max_bytes: int
    expires_at: datetime


class NewDownload(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: Key


class Download(BaseModel):
    """Permission to GET one picture that was made."""

    key: str
    url: str
    expires_at: datetime
