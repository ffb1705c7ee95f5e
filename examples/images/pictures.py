"""Transform pictures from bytes to bytes. Pure: no file, no network, and the same input gives the same output.

A picture is decoded only after its type and its dimensions have been checked. These pictures are rejected:

    413  too many pixels, or too long a side         415  not a JPEG, PNG, WebP or GIF
    422  damaged or cut short; more than one frame
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageCms, ImageFilter, ImageOps

from examples.images.schemas import FilterKind, OutputFormat
from penstock import Reject

MAX_SIDE = 10_000
MAX_PIXELS = 25_000_000  # about 100 MB when decoded, and a few copies of that during the work

# Pillow checks this limit when it opens a file, before it decodes anything.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

#: The first bytes of files. They select one decoder for a file, and all other decoders of Pillow stay unused.
BEGINNINGS = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
}

#: A JPEG stays a JPEG. A GIF becomes a PNG, which can hold all its colours even after a filter.
KEPT_AS: dict[str, OutputFormat] = {"JPEG": "jpeg", "PNG": "png", "GIF": "png", "WEBP": "webp"}

ENCODING: dict[OutputFormat, dict[str, Any]] = {
    "jpeg": {"quality": 85},
    "png": {},
    "webp": {"quality": 80},
}

SRGB = ImageCms.createProfile("sRGB")


@dataclass(frozen=True, slots=True)
class Picture:
    content: bytes
    format: OutputFormat
    width: int
    height: int


def thumbnail(content: bytes, size: int) -> Picture:
    """Shrink a picture to fit into a square with sides of `size` pixels. A smaller picture is not enlarged."""
    image = decode(content, enough=2 * size)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return encode(image, KEPT_AS[kind_of(content)])


def filtered(content: bytes, kind: FilterKind) -> Picture:
    return encode(FILTERS[kind](decode(content)), KEPT_AS[kind_of(content)])


def converted(content: bytes, to: OutputFormat, quality: int | None = None) -> Picture:
    return encode(decode(content), to, quality)


# Decoding


def kind_of(content: bytes) -> str:
    """Return the kind of the content, as Pillow calls it. Raises Reject."""
    for kind, beginning in BEGINNINGS.items():
        if beginning.match(content):
            return kind
    raise Reject(415, "This is not a JPEG, PNG, WebP or GIF. Send one of these.")


def decode(content: bytes, *, enough: int | None = None) -> Image.Image:
    """Decode a picture upright, in RGB, RGBA or L with eight bits each. Raises Reject.

    With `enough`, a JPEG may be decoded smaller, as long as its sides have this many pixels.
    """
    kind = kind_of(content)
    try:
        with bombs_raised(), Image.open(io.BytesIO(content), formats=[kind]) as image:
            reject_long_side(image)
            reject_frames(image)
            if enough is not None:
                image.draft(None, (enough, enough))
            image.load()
            turn_upright(image)
            return in_plain_colours(image)
    except Reject:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise Reject(413, f"Send at most {MAX_PIXELS:,} pixels: decoded, this would be more.") from error
    except MemoryError:
        raise  # the error is about this machine, not about the picture, so another attempt may succeed
    except Exception as error:  # for a damaged file, decoders raise many kinds of errors
        raise Reject(422, f"Send the whole file, undamaged: this {kind} cannot be decoded ({error}).") from error


@contextmanager
def bombs_raised() -> Iterator[None]:
    """Turn Pillow's warning about too many pixels into an error. Its other warnings are about metadata.

    By default Pillow raises an error only for twice the limit. Warning filters apply to the whole process. That is safe
    here, since a worker process runs one handler at a time; it would not be safe in threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def reject_long_side(image: Image.Image) -> None:
    if max(image.size) > MAX_SIDE:
        width, height = image.size
        raise Reject(413, f"Send at most {MAX_SIDE:,} pixels a side: this has {width:,} x {height:,}.")


def reject_frames(image: Image.Image) -> None:
    """Reject an animation, since it would silently lose all frames except one.

    A multi-picture JPEG (MPO) is allowed: phones add a depth map or a preview to the photo, which is the first picture.
    """
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise Reject(422, "Send a still picture: this one is animated.")


def turn_upright(image: Image.Image) -> None:
    """Turn the picture upright as its metadata says, since the metadata is dropped later."""
    with suppress(Exception):  # unreadable metadata is no reason to reject the picture
        ImageOps.exif_transpose(image, in_place=True)


def in_plain_colours(image: Image.Image) -> Image.Image:
    """Return a copy in sRGB. Dropping a colour profile without applying it would change the colours."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):
        plain = in_eight_bits(image)
    elif image.has_transparency_data:
        plain = image.convert("RGBA")
    elif image.mode in {"L", "CMYK"}:
        plain = image.copy()
    else:
        plain = image.convert("L" if image.mode == "1" else "RGB")
    in_srgb = with_profile_applied(plain, profile) if profile else plain
    return in_srgb.convert("RGB") if in_srgb.mode == "CMYK" else in_srgb


def in_eight_bits(image: Image.Image) -> Image.Image:
    """Scale sixteen bits of gray to eight. Pillow's own conversion makes every value above 255 white."""
    return image.convert("I").point(lambda gray: gray * (1 / 256)).convert("L")


def with_profile_applied(image: Image.Image, profile: bytes) -> Image.Image:
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        applied = ImageCms.profileToProfile(image, source, SRGB, outputMode=target)
    except (ImageCms.PyCMSError, OSError):
        return image  # the profile is damaged, or made for another kind of picture
    assert applied is not None  # None is possible only if it works in place
    return applied


# Filters


def on_colours(change: Callable[[Image.Image], Image.Image]) -> Callable[[Image.Image], Image.Image]:
    """Apply a change only to the colours and keep the transparency."""

    def changed(image: Image.Image) -> Image.Image:
        if image.mode != "RGBA":
            return change(image)
        result = change(image.convert("RGB"))
        result.putalpha(image.getchannel("A"))
        return result

    return changed


def blurred(image: Image.Image) -> Image.Image:
    """Blur with colours weighted by opacity (`RGBa`). Otherwise the colours of transparent pixels would be visible."""
    blur = ImageFilter.GaussianBlur(radius=4)
    return image.convert("RGBa").filter(blur).convert("RGBA") if image.mode == "RGBA" else image.filter(blur)


def with_contrast(image: Image.Image) -> Image.Image:
    """Stretch the contrast from black to white. Transparent pixels do not count."""
    seen = image.getchannel("A") if image.mode == "RGBA" else None
    return on_colours(lambda colours: ImageOps.autocontrast(colours, cutoff=1, mask=seen, preserve_tone=True))(image)


FILTERS: dict[FilterKind, Callable[[Image.Image], Image.Image]] = {
    "blur": blurred,
    "sharpen": on_colours(lambda image: image.filter(ImageFilter.UnsharpMask(radius=2, percent=150, threshold=3))),
    "grayscale": on_colours(ImageOps.grayscale),
    "autocontrast": with_contrast,
}


# Encoding


def encode(image: Image.Image, to: OutputFormat, quality: int | None = None) -> Picture:
    """Encode a picture without metadata, since the location of a photo is private."""
    image = on_white(image) if to == "jpeg" else image
    image.info.clear()
    options = ENCODING[to] | ({} if quality is None else {"quality": quality})
    content = io.BytesIO()
    image.save(content, to.upper(), **options)
    return Picture(content.getvalue(), to, image.width, image.height)


def on_white(image: Image.Image) -> Image.Image:
    """Put the picture on white, since JPEG has no transparency."""
    if not image.mode.endswith("A"):
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
