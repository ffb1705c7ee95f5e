"""What clients send and get.

These models judge a request by itself, before it is accepted: anything they refuse refuses the whole batch. What only
the picture can tell (is it one, is it too large) is for the handlers, and fails one operation only.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

#: One step of a path and no more: no slash, no leading dot, nothing that a shell, a URL or S3 would read otherwise.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]

#: As `Made.key` says it.
Key = Annotated[str, StringConstraints(pattern=r"^made/[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[a-z0-9.-]{1,60}$")]

FilterKind = Literal["blur", "sharpen", "grayscale", "autocontrast"]
OutputFormat = Literal["jpeg", "png", "webp"]


class Thumbnail(BaseModel):
    """It fits into a square of `size` pixels a side."""

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
            raise ValueError("Leave the quality out: PNG loses nothing.")
        return self


class Made(BaseModel):
    """A picture that was made, and where it lies now."""

    key: str
    format: OutputFormat
    width: int
    height: int
    size_bytes: int


class NewUpload(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name


class Upload(BaseModel):
    """Leave to upload one picture: POST to `url`, as a form, `fields` first and then the field `file`."""

    name: str
    url: str
    fields: dict[str, str]
    max_bytes: int
    expires_at: datetime


class NewDownload(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: Key


class Download(BaseModel):
    """Leave to GET one picture that was made."""

    key: str
    url: str
    expires_at: datetime
