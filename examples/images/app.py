"""The application: what can be done with pictures.

    penstock up --app examples.images.app:operations

This example needs no record of the operations that it has performed. The key of a result depends only on the operation,
and its bytes only on the upload. So an operation that runs twice writes the same bytes to the same place.
"""

from collections.abc import Callable

from examples.images import pictures
from examples.images.pictures import Picture
from examples.images.schemas import (
    Conversion,
    Download,
    Filter,
    Made,
    Name,
    NewDownload,
    NewUpload,
    OutputFormat,
    Thumbnail,
    Upload,
)
from examples.images.storage import NotOffered, NotThere, TooLarge, open_store, store_url
from penstock import Operations, Reject

MAX_BYTES = 10_000_000

CONTENT_TYPES: dict[OutputFormat, str] = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
ENDINGS: dict[OutputFormat, str] = {"jpeg": "jpg", "png": "png", "webp": "webp"}

store = open_store(store_url())
operations = Operations()


# These handlers are short and block, so they run in threads. Clients send the pictures to S3 themselves.


@operations.post("/uploads", status=201)
def offer_upload(wanted: NewUpload) -> Upload:
    try:
        leave = store.offer_upload(f"uploads/{wanted.name}", MAX_BYTES)
    except NotOffered as error:
        raise Reject(501, str(error)) from error
    return Upload(
        name=wanted.name,
        url=leave.url,
        fields=dict(leave.fields),
        max_bytes=MAX_BYTES,
        expires_at=leave.expires_at,
    )


@operations.post("/downloads", status=201)
def offer_download(wanted: NewDownload) -> Download:
    leave = store.offer_download(wanted.key)
    return Download(key=wanted.key, url=leave.url, expires_at=leave.expires_at)


# These handlers need CPU time, so they run in processes. They also read and write the pictures, although a process
# waits some milliseconds for S3 then: otherwise the event loop would have to copy every picture twice.


@operations.post("/images/{name}/thumbnail", status=201, cpu_bound=True)
def make_thumbnail(name: Name, wanted: Thumbnail) -> Made:
    return make(name, f"thumbnail-{wanted.size}", lambda content: pictures.thumbnail(content, wanted.size))


@operations.post("/images/{name}/filter", status=201, cpu_bound=True)
def apply_filter(name: Name, wanted: Filter) -> Made:
    return make(name, f"filter-{wanted.kind}", lambda content: pictures.filtered(content, wanted.kind))


@operations.post("/images/{name}/convert", status=201, cpu_bound=True)
def convert(name: Name, wanted: Conversion) -> Made:
    how = "convert" if wanted.quality is None else f"convert-q{wanted.quality}"
    return make(name, how, lambda content: pictures.converted(content, wanted.format, wanted.quality))


def make(name: str, how: str, transform: Callable[[bytes], Picture]) -> Made:
    picture = transform(fetch(name))
    key = f"made/{name}/{how}.{ENDINGS[picture.format]}"
    store.write(key, picture.content, CONTENT_TYPES[picture.format])
    return Made(
        key=key,
        format=picture.format,
        width=picture.width,
        height=picture.height,
        size_bytes=len(picture.content),
    )


def fetch(name: str) -> bytes:
    try:
        return store.read(f"uploads/{name}", MAX_BYTES)
    except NotThere as error:
        raise Reject(404, f"Upload {name} first: there is no such picture.") from error
    except TooLarge as error:
        raise Reject(413, f"Send at most {MAX_BYTES:,} bytes: {name} has {error.size_bytes:,}.") from error
