"""Draw samples/: pictures of every supported kind, and some that must be rejected.

    python -m examples.images.draw [FOLDER]

All files are small. The decompression bomb has 32 bytes and 268 million pixels when it is decoded.
"""

import argparse
import io
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFilter

FOLDER = Path(__file__).with_name("samples")
SEED = 20_261_125

SKY = ((246, 196, 120), (86, 120, 180))
WATER = ((60, 90, 140), (24, 40, 80))
HILLS = ((98, 92, 130), (68, 70, 104), (40, 46, 76))
SUN = (255, 240, 200)
RED = (196, 60, 48)
LARGEST_WEBP = 16_383

GPS_IFD, ORIENTATION, CAMERA = 0x8825, 0x0112, 0x0110
TURNED_LEFT = 6  # the EXIF orientation of a picture from a phone that is held upright


def render() -> dict[str, bytes]:
    """Return the content of every sample file by its name."""
    return {name: draw() for name, draw in {**TAKEN, **NOT_TAKEN}.items()}


# The pictures


def shore(width: int = 480, height: int = 320) -> Image.Image:
    """Draw a sunset behind hills and its reflection in water, with integers only, which give equal bytes everywhere."""
    image = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(image)
    horizon = height * 5 // 8
    shade(pen, range(horizon), width, *SKY)
    sun = width * 5 // 8, horizon * 3 // 4
    for radius, strength in ((height // 5, 40), (height // 7, 90), (height // 10, 255)):
        pen.ellipse(box(sun, radius), fill=mixed(SUN, pixel(image, sun[0], 2), strength, 255))
    random = Random(SEED)  # noqa: S311 - a picture
    for number, colour in enumerate(HILLS):
        pen.polygon(ridge(random, width, horizon, height // (6 + 3 * number)), fill=colour)
    shade(pen, range(horizon, height), width, *WATER)
    for _ in range(height // 2):
        y = horizon + 3 + int(random.random() * (height - horizon - 6))
        x = sun[0] + int((random.random() - 0.5) * (y - horizon + 20))
        pen.line((x - 6, y, x + 6, y), fill=mixed(SUN, WATER[0], 150, 255))
    return image


def ridge(random: Random, width: int, horizon: int, height: int) -> list[tuple[int, int]]:
    steps = 12
    tops = [(width * step // steps, horizon - int(random.random() * height)) for step in range(steps + 1)]
    return [(0, horizon), *tops, (width, horizon)]


def shade(pen: ImageDraw.ImageDraw, rows: range, width: int, first: tuple[int, ...], last: tuple[int, ...]) -> None:
    for y in rows:
        pen.line((0, y, width, y), fill=mixed(last, first, y - rows.start, len(rows)))


def mixed(colour: tuple[int, ...], other: tuple[int, ...], part: int, whole: int) -> tuple[int, ...]:
    return tuple((a * part + b * (whole - part)) // whole for a, b in zip(colour, other, strict=True))


def box(centre: tuple[int, int], radius: int) -> tuple[int, int, int, int]:
    x, y = centre
    return x - radius, y - radius, x + radius, y + radius


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    colour = image.getpixel((x, y))
    assert isinstance(colour, tuple)
    return colour


def badge(size: int = 256) -> Image.Image:
    """Draw a valve's wheel on a transparent background: three spokes, and a rim that fades out."""
    image = Image.new("RGBA", (size, size), (*RED, 0))
    pen = ImageDraw.Draw(image)
    centre = size // 2, size // 2
    pen.ellipse(box(centre, size * 3 // 7), outline=(*RED, 255), width=size // 10)
    for end in ((size // 2, size // 8), (size // 6, size * 5 // 7), (size * 5 // 6, size * 5 // 7)):
        pen.line((*centre, *end), fill=(*RED, 255), width=size // 14)
    pen.ellipse(box(centre, size // 8), fill=(70, 70, 84, 255))
    image.putalpha(image.getchannel("A").filter(ImageFilter.BoxBlur(2)))
    return image


def cut_out() -> Image.Image:
    """Return the picture with a palette of 32 colours, one of which is transparent, as in a GIF."""
    image = badge(128)
    colours = image.convert("RGB").quantize(31)
    colours.paste(31, mask=image.getchannel("A").point(lambda alpha: 255 * (alpha < 128)))
    colours.info["transparency"] = 31
    return colours


def deep_gray() -> Image.Image:
    """Draw a ramp with sixteen bits, from black on the left to white on the right."""
    row = struct.pack("<256H", *(step * 257 for step in range(256)))
    return Image.frombytes("I;16", (256, 64), row * 64)


# The files


def stored(draw: Callable[[], Image.Image], kind: str, mode: str | None = None, **options: object) -> bytes:
    image, content = draw(), io.BytesIO()
    (image.convert(mode) if mode else image).save(content, kind, **options)
    return content.getvalue()


def from_a_phone() -> bytes:
    """Return a JPEG that is turned on its side, with the camera and the location in its metadata."""
    about = Image.Exif()
    about[ORIENTATION], about[CAMERA] = TURNED_LEFT, "Penstock Pinhole"
    about[GPS_IFD] = {1: "N", 2: (60.0, 23.0, 36.0), 3: "E", 4: (5.0, 19.0, 12.0)}
    upright = shore(320, 480)
    return stored(lambda: upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=about, quality=80)


def cut_short() -> bytes:
    whole = stored(shore, "JPEG", quality=80)
    return whole[: len(whole) // 2]


def damaged() -> bytes:
    """Return a PNG in which one byte of the compressed pixels is changed."""
    content = bytearray(stored(badge, "PNG"))
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


def animated() -> bytes:
    frames = [badge(64).rotate(-30 * step) for step in range(4)]
    return stored(lambda: frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100, loop=0)


def endless() -> bytes:
    return stored(lambda: Image.new("1", (20_000, 16), 1), "PNG")


def bomb(width: int = LARGEST_WEBP, height: int = LARGEST_WEBP, colour: tuple[int, int, int] = (24, 40, 80)) -> bytes:
    """Return a valid lossless WebP of one colour.

    Each of its five codes has one symbol, which needs no bits, so any number of pixels needs none.
    """
    red, green, blue = colour
    header = [(0x2F, 8), (width - 1, 14), (height - 1, 14), (0, 1), (0, 3)]
    no_transforms = [(0, 1), (0, 1), (0, 1)]
    codes = [bit for symbol in (green, red, blue, 255) for bit in ((1, 1), (0, 1), (1, 1), (symbol, 8))]
    distances = [(1, 1), (0, 1), (0, 1), (0, 1)]
    stream = packed(*header, *no_transforms, *codes, *distances)
    chunk = b"VP8L" + struct.pack("<I", len(stream)) + stream + b"\0" * (len(stream) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def packed(*fields: tuple[int, int]) -> bytes:
    """Pack numbers, each with its number of bits, the least significant bit first."""
    total = filled = 0
    for number, bits in fields:
        total |= number << filled
        filled += bits
    return total.to_bytes((filled + 7) // 8, "little")


def web_page() -> bytes:
    return b"<!doctype html>\n<title>404 Not Found</title>\n<p>The picture has moved.</p>\n"


TAKEN: Mapping[str, Callable[[], bytes]] = {
    "shore.jpg": lambda: stored(shore, "JPEG", quality=80),
    "shore.webp": lambda: stored(shore, "WEBP", quality=75),
    "shore.png": lambda: stored(lambda: shore(240, 160), "PNG"),
    "phone.jpg": from_a_phone,
    "press.jpg": lambda: stored(shore, "JPEG", "CMYK", quality=70),
    "evening.jpg": lambda: stored(shore, "JPEG", "L", quality=80),
    "slow.jpg": lambda: stored(lambda: shore(640, 400), "JPEG", quality=60, progressive=True),
    "badge.png": lambda: stored(badge, "PNG"),
    "badge.webp": lambda: stored(badge, "WEBP", lossless=True),
    "badge.gif": lambda: stored(cut_out, "GIF"),
    "palette.png": lambda: stored(lambda: shore(240, 160).quantize(32), "PNG"),
    "stamp.png": lambda: stored(lambda: badge(96).getchannel("A").point(lambda a: 255 - a), "PNG", "1"),
    "deep.png": lambda: stored(deep_gray, "PNG"),
    "dot.png": lambda: stored(lambda: Image.new("RGB", (1, 1), RED), "PNG"),
}

NOT_TAKEN: Mapping[str, Callable[[], bytes]] = {
    "cut-short.jpg": cut_short,
    "damaged.png": damaged,
    "animated.gif": animated,
    "endless.png": endless,
    "bomb.webp": bomb,
    "page.jpg": web_page,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.images.draw", description="Draws the sample pictures.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in render().items():
        folder.joinpath(name).write_bytes(content)


if __name__ == "__main__":
    main()
