"""Pictures as bytes in, bytes out. Pure: no file, no network, and the same bytes out whenever the same come in.

Nothing is decoded before its type and its dimensions are known to be taken. What is not taken is rejected:

    413  too many pixels, or too long a side         415  not a JPEG, PNG, WebP or GIF, whatever its name says
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
MAX_PIXELS = 25_000_000  # about 100 MB decoded, and a few copies of that while it is worked on

# Pillow compares with this when it opens a file, before it decodes anything.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

#: How files begin. So each is given to one decoder only, and none to those that nobody needs here.
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
    """As large as fits into a square of `size` pixels a side. What is smaller is not enlarged."""
    image = decode(content, enough=2 * size)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return encode(image, KEPT_AS[kind_of(content)])


def filtered(content: bytes, kind: FilterKind) -> Picture:
    return encode(FILTERS[kind](decode(content)), KEPT_AS[kind_of(content)])


def converted(content: bytes, to: OutputFormat, quality: int | None = None) -> Picture:
    return encode(decode(content), to, quality)


# Decoding


def kind_of(content: bytes) -> str:
    """What the content is, as Pillow calls it. Raises Reject."""
    for kind, beginning in BEGINNINGS.items():
        if beginning.match(content):
            return kind
    raise Reject(415, "Send a JPEG, PNG, WebP or GIF: this is none of them, whatever its name says.")


def decode(content: bytes, *, enough: int | None = None) -> Image.Image:
    """Upright, in RGB, RGBA or L, eight bits each. With `enough`, a JPEG may come smaller, if its sides are that long.

    Raises Reject.
    """
    kind = kind_of(content)
    try:
        with bombs_raised(), Image.open(io.BytesIO(content), formats=[kind]) as image:
            refuse_long_side(image)
            refuse_frames(image)
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
        raise  # it tells of this machine now, not of the picture: another attempt may do
    except Exception as error:  # of a damaged file decoders raise whatever they stumble over
        raise Reject(422, f"Send the whole file, undamaged: this {kind} cannot be decoded ({error}).") from error


@contextmanager
def bombs_raised() -> Iterator[None]:
    """Of too many pixels Pillow only warns, unless they are twice too many. What else it warns of is metadata.

    Filters are the process's: a handler in a process has it to itself, in threads this would not do.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def refuse_long_side(image: Image.Image) -> None:
    if max(image.size) > MAX_SIDE:
        width, height = image.size
        raise Reject(413, f"Send at most {MAX_SIDE:,} pixels a side: this has {width:,} x {height:,}.")


def refuse_frames(image: Image.Image) -> None:
    """An animation would silently lose all frames but one.

    Not so a multi-picture JPEG (MPO): phones add a depth map or a preview to the photo, which is the first picture.
    """
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise Reject(422, "Send a still picture: this one is animated.")


def turn_upright(image: Image.Image) -> None:
    """Cameras store the picture as the sensor lay, and say in the metadata, which we drop, how to turn it."""
    with suppress(Exception):  # metadata that cannot be read is no reason to refuse the picture
        ImageOps.exif_transpose(image, in_place=True)


def in_plain_colours(image: Image.Image) -> Image.Image:
    """A copy in sRGB. Dropping a colour profile unapplied would shift the colours."""
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
    """Sixteen bits of gray, scaled. Pillow's own conversion takes all above 255 for white."""
    return image.convert("I").point(lambda gray: gray * (1 / 256)).convert("L")


def with_profile_applied(image: Image.Image, profile: bytes) -> Image.Image:
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        applied = ImageCms.profileToProfile(image, source, SRGB, outputMode=target)
    except (ImageCms.PyCMSError, OSError):
        return image  # damaged, or made for another kind of picture
    assert applied is not None  # as it is not asked to work in place
    return applied


# Filters


def on_colours(change: Callable[[Image.Image], Image.Image]) -> Callable[[Image.Image], Image.Image]:
    """The change is made to the colours, and what is transparent stays so."""

    def changed(image: Image.Image) -> Image.Image:
        if image.mode != "RGBA":
            return change(image)
        result = change(image.convert("RGB"))
        result.putalpha(image.getchannel("A"))
        return result

    return changed


def blurred(image: Image.Image) -> Image.Image:
    """Weighted by opacity (`RGBa`): or the colours of what is transparent would shine through."""
    blur = ImageFilter.GaussianBlur(radius=4)
    return image.convert("RGBa").filter(blur).convert("RGBA") if image.mode == "RGBA" else image.filter(blur)


def with_contrast(image: Image.Image) -> Image.Image:
    """From black to white. What cannot be seen does not count."""
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
    """Without any metadata: where a photo was taken is nobody's business."""
    image = on_white(image) if to == "jpeg" else image
    image.info.clear()
    options = ENCODING[to] | ({} if quality is None else {"quality": quality})
    content = io.BytesIO()
    image.save(content, to.upper(), **options)
    return Picture(content.getvalue(), to, image.width, image.height)


def on_white(image: Image.Image) -> Image.Image:
    """JPEG knows no transparency."""
    if not image.mode.endswith("A"):
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
