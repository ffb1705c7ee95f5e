"""The images example: what its operations make of every kind of picture, and which they do not take."""

import hashlib
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat

from examples.images import draw, pictures
from examples.images.draw import RED
from examples.images.pictures import MAX_PIXELS, MAX_SIDE, Picture
from penstock import Reject

SAMPLES = {name: draw.FOLDER.joinpath(name).read_bytes() for name in (*draw.TAKEN, *draw.NOT_TAKEN)}
WHITE, NOTHING = (255, 255, 255), 0
SAND = (200, 170, 90)

OPERATIONS: dict[str, Callable[[bytes], Picture]] = {
    "thumbnail 64": lambda content: pictures.thumbnail(content, 64),
    "thumbnail 1024": lambda content: pictures.thumbnail(content, 1024),
    "blur": lambda content: pictures.filtered(content, "blur"),
    "sharpen": lambda content: pictures.filtered(content, "sharpen"),
    "grayscale": lambda content: pictures.filtered(content, "grayscale"),
    "autocontrast": lambda content: pictures.filtered(content, "autocontrast"),
    "to jpeg": lambda content: pictures.converted(content, "jpeg"),
    "to png": lambda content: pictures.converted(content, "png"),
    "to webp": lambda content: pictures.converted(content, "webp"),
}

#: Format, width and height of each sample once it is upright, and the mode in which it is worked on.
UPRIGHT = {
    "shore.jpg": ("jpeg", 480, 320, "RGB"),
    "shore.webp": ("webp", 480, 320, "RGB"),
    "shore.png": ("png", 240, 160, "RGB"),
    "phone.jpg": ("jpeg", 320, 480, "RGB"),  # lies on its side
    "press.jpg": ("jpeg", 480, 320, "RGB"),  # CMYK
    "evening.jpg": ("jpeg", 480, 320, "L"),
    "slow.jpg": ("jpeg", 640, 400, "RGB"),  # progressive
    "badge.png": ("png", 256, 256, "RGBA"),
    "badge.webp": ("webp", 256, 256, "RGBA"),
    "badge.gif": ("png", 128, 128, "RGBA"),  # of a palette, one colour of which is nothing
    "palette.png": ("png", 240, 160, "RGB"),
    "stamp.png": ("png", 96, 96, "L"),  # one bit
    "deep.png": ("png", 256, 64, "L"),  # sixteen bits
    "dot.png": ("png", 1, 1, "RGB"),
}


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def made(content: bytes, operation: str) -> Image.Image:
    picture = OPERATIONS[operation](content)
    image = opened(picture.content)
    assert (image.format, image.size) == (picture.format.upper(), (picture.width, picture.height))
    return image


def colour(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    found = image.convert("RGBA").getpixel((x, y))
    assert isinstance(found, tuple)
    return found


def distance(one: Image.Image, other: Image.Image) -> float:
    """How far two pictures are apart: the mean over all pixels and colours, of 255."""
    difference = ImageChops.difference(one.convert("RGBA"), other.convert("RGBA"))
    return max(ImageStat.Stat(difference).mean)


def rejection(content: bytes, operation: str = "thumbnail 64") -> Reject:
    with pytest.raises(Reject) as caught:
        OPERATIONS[operation](content)
    return caught.value


# Every picture, every operation


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", UPRIGHT)
def test_every_picture_is_taken_by_every_operation(name: str, operation: str) -> None:
    kept_as, width, height, mode = UPRIGHT[name]
    image = made(SAMPLES[name], operation)

    expected_format = operation.removeprefix("to ") if operation.startswith("to ") else kept_as
    assert image.format == expected_format.upper()
    assert image.size == (fitting(width, height, 64) if operation == "thumbnail 64" else (width, height))
    assert ("A" in image.getbands()) == (mode == "RGBA" and image.format != "JPEG")


def fitting(width: int, height: int, size: int) -> tuple[int, int]:
    longest = max(width, height, size)
    return round(width * size / longest), round(height * size / longest)


@pytest.mark.parametrize("name", ["phone.jpg", "badge.png", "badge.gif"])
def test_an_operation_run_twice_makes_the_same_bytes(name: str) -> None:
    for operation in OPERATIONS.values():
        assert operation(SAMPLES[name]) == operation(SAMPLES[name])


def test_the_samples_cover_the_ways_in_which_colours_are_stored() -> None:
    modes = {opened(SAMPLES[name]).mode for name in draw.TAKEN}
    assert modes == {"1", "L", "P", "I;16", "RGB", "RGBA", "CMYK"}
    assert list(UPRIGHT) == list(draw.TAKEN)


# Thumbnails


@pytest.mark.parametrize(
    ("size", "asked", "expected"),
    [
        ((400, 200), 100, (100, 50)),
        ((200, 400), 100, (50, 100)),
        ((100, 100), 100, (100, 100)),
        ((99, 50), 100, (99, 50)),  # never enlarged
        ((1000, 3), 100, (100, 1)),  # and never thinner than a pixel
    ],
)
def test_a_thumbnail_fits_into_its_square(size: tuple[int, int], asked: int, expected: tuple[int, int]) -> None:
    picture = pictures.thumbnail(stored(Image.new("RGB", size, SAND)), asked)
    assert (picture.width, picture.height) == expected
    assert colour(opened(picture.content), 0, 0)[:3] == SAND


def test_a_thumbnail_looks_like_its_picture() -> None:
    whole = opened(SAMPLES["shore.jpg"]).resize((128, 85), Image.Resampling.LANCZOS)
    assert distance(opened(pictures.thumbnail(SAMPLES["shore.jpg"], 128).content), whole) < 4


# Orientation and metadata


def test_a_photo_is_turned_upright() -> None:
    upright = draw.shore(320, 480)
    assert distance(made(SAMPLES["phone.jpg"], "to png"), upright) < 4
    assert distance(made(SAMPLES["phone.jpg"], "thumbnail 64"), upright.resize((43, 64))) < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_are_known(orientation: int) -> None:
    undone = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = draw.shore(48, 32)
    about = Image.Exif()
    about[draw.ORIENTATION] = orientation
    lying = upright.transpose(undone[orientation]) if orientation in undone else upright
    for kind in ("PNG", "WEBP"):
        content = stored(lying, kind, exif=about, **({"lossless": True} if kind == "WEBP" else {}))
        assert distance(made(content, "to png"), upright) == 0


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_no_metadata_is_kept(kind: str, operation: str) -> None:
    about = opened(SAMPLES["phone.jpg"]).getexif()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options = {"exif": about, "icc_profile": profile, "xmp": b"<x:xmpmeta>61.2 N</x:xmpmeta>"}
    content = stored(draw.shore(96, 64), kind, **options, **({"comment": b"at home"} if kind == "JPEG" else {}))
    assert b"Pinhole" in content

    image = made(content, operation)

    assert dict(image.getexif()) == {}
    assert not {"exif", "icc_profile", "xmp", "comment", "photoshop"} & set(image.info)
    for secret in (b"Pinhole", b"GPS", b"61.2 N", b"at home"):
        assert secret not in OPERATIONS[operation](content).content


@pytest.mark.parametrize(
    ("about", "size"),
    [
        (b"Exif\0\0MM\0\x2a\xff\xff\xff\xff", (48, 32)),  # leads to nowhere
        # To be turned; and a signed number, which Pillow reads and cannot write again.
        (
            b"Exif\0\0II\x2a\0\x08\0\0\0\x02\0" + struct.pack("<HHIIHHIi", 0x112, 3, 1, 6, 0x100, 6, 1, -1) + bytes(4),
            (32, 48),
        ),
    ],
)
def test_metadata_that_cannot_be_read_is_no_reason_to_refuse(about: bytes, size: tuple[int, int]) -> None:
    content = stored(draw.shore(48, 32), "JPEG", exif=about)
    assert made(content, "thumbnail 64").size == size


def test_of_a_photo_with_a_second_picture_the_photo_is_taken() -> None:
    """As phones store a depth map or a preview with it: an MPO, which begins as any JPEG."""
    photo, preview = draw.shore(96, 64), Image.new("RGB", (96, 64), "red")
    content = stored(photo, "MPO", save_all=True, append_images=[preview])
    assert opened(content).format == "MPO"
    assert distance(made(content, "to png"), photo) < 8


# Colours


def test_sixteen_bits_of_gray_are_scaled_and_not_cut_off() -> None:
    image = made(SAMPLES["deep.png"], "to png")
    assert [colour(image, x, 0)[0] for x in range(256)] == list(range(256))


def test_a_colour_profile_is_applied_before_it_is_dropped() -> None:
    swapped = stored(Image.new("RGB", (8, 8), (220, 30, 30)), icc_profile=profile_with_red_and_blue_swapped())
    red, green, blue, _ = colour(made(swapped, "to png"), 4, 4)
    assert (red < 40, green < 40, blue > 200) == (True, True, True)


def profile_with_red_and_blue_swapped() -> bytes:
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = {
        bytes(content[at : at + 4]): at for at in range(132, 132 + 12 * struct.unpack(">I", content[128:132])[0], 12)
    }
    red, blue = (entries[name] + 4 for name in (b"rXYZ", b"bXYZ"))
    content[red : red + 8], content[blue : blue + 8] = content[blue : blue + 8], content[red : red + 8]
    return bytes(content)


@pytest.mark.parametrize("profile", [b"no profile", b"\0" * 200])
def test_a_damaged_profile_is_passed_over(profile: bytes) -> None:
    content = stored(Image.new("RGB", (8, 8), SAND), icc_profile=profile)
    assert colour(made(content, "to png"), 4, 4)[:3] == SAND


def test_a_profile_for_another_kind_of_picture_is_passed_over() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = stored(Image.new("CMYK", (8, 8), (0, 0, 0, 255)), "JPEG", icc_profile=profile)
    assert max(colour(made(content, "to png"), 4, 4)[:3]) < 30


@pytest.mark.parametrize("name", ["badge.png", "badge.webp", "badge.gif"])
def test_where_a_picture_is_transparent_a_jpeg_of_it_is_white(name: str) -> None:
    image = made(SAMPLES[name], "to jpeg")
    middle_of_rim = round(image.width * 0.12)
    assert distance(image.crop((0, 0, 8, 8)), Image.new("RGB", (8, 8), WHITE)) < 3
    assert distance(image.crop((middle_of_rim, image.height // 2, middle_of_rim + 2, image.height // 2 + 2)),
                    Image.new("RGB", (2, 2), RED)) < 20  # fmt: skip


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "to jpeg"])
@pytest.mark.parametrize("name", ["badge.png", "badge.webp", "badge.gif"])
def test_what_is_transparent_stays_so(name: str, operation: str) -> None:
    image = made(SAMPLES[name], operation)
    assert colour(image, 0, 0)[3] == NOTHING
    assert colour(image, image.width // 2, image.height // 2)[3] > 250


def test_a_transparent_colour_of_a_picture_without_alpha_is_known() -> None:
    content = stored(Image.new("RGB", (8, 8), SAND), transparency=SAND)
    assert colour(made(content, "to webp"), 4, 4)[3] == NOTHING
    assert colour(made(content, "to jpeg"), 4, 4)[:3] == WHITE


def test_nothing_shines_through_a_blur() -> None:
    """Half is sand and seen, half is a glaring green and is not."""
    image = Image.new("RGBA", (64, 64), (*SAND, 255))
    image.paste((0, 255, 0, 0), (32, 0, 64, 64))
    blurred = made(stored(image), "blur")
    for x in range(20, 40):
        red, green, _, alpha = colour(blurred, x, 32)
        assert alpha < 40 or abs(red - SAND[0]) + abs(green - SAND[1]) < 15, x


# Filters and conversions


def test_grayscale_has_no_colour_left() -> None:
    for name in ("shore.png", "badge.png"):
        bands = made(SAMPLES[name], "grayscale").convert("RGB").split()
        assert bands[0].tobytes() == bands[1].tobytes() == bands[2].tobytes()


def test_blur_has_less_detail_and_sharpen_more() -> None:
    edges = {how: detail(made(SAMPLES["shore.png"], how)) for how in ("blur", "to png", "sharpen")}
    assert edges["blur"] < edges["to png"] < edges["sharpen"]


def detail(image: Image.Image) -> float:
    gray = image.convert("L")
    return ImageStat.Stat(ImageChops.difference(gray, ImageChops.offset(gray, 1, 0))).mean[0]


def test_autocontrast_reaches_from_black_to_white() -> None:
    ramp = Image.linear_gradient("L").point(lambda gray: 100 + gray / 10)
    assert ramp.getextrema() == (100, 126)
    assert made(stored(ramp), "autocontrast").getextrema() == (0, 255)


def test_what_cannot_be_seen_does_not_count_for_contrast() -> None:
    image = Image.new("RGBA", (100, 8), (0, 0, 0, 0))
    for x in range(50):
        image.paste((100 + x // 2,) * 3 + (255,), (x, 0, x + 1, 8))
    shown = made(stored(image), "autocontrast")
    assert (colour(shown, 0, 4)[0], colour(shown, 49, 4)[0]) == (0, 255)


@pytest.mark.parametrize("to", ["jpeg", "webp"])
def test_less_quality_is_smaller(to: str) -> None:
    sizes = [len(pictures.converted(SAMPLES["shore.png"], to, quality).content) for quality in (20, 60, 95)]  # type: ignore[arg-type]
    assert sizes == sorted(set(sizes))


def test_a_conversion_without_loss_changes_no_pixel() -> None:
    assert distance(made(SAMPLES["badge.png"], "to png"), opened(SAMPLES["badge.png"])) == 0


# What is not taken

NOT_TAKEN = {
    "cut-short.jpg": (422, "Send the whole file, undamaged: this JPEG cannot be decoded (image file is truncated"),
    "damaged.png": (422, "Send the whole file, undamaged: this PNG cannot be decoded ("),
    "animated.gif": (422, "Send a still picture: this one is animated."),
    "endless.png": (413, "Send at most 10,000 pixels a side: this has 20,000 x 16."),
    "bomb.webp": (413, "Send at most 25,000,000 pixels: decoded, this would be more."),
    "page.jpg": (415, "This is not a JPEG, PNG, WebP or GIF. Send one of these."),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", NOT_TAKEN)
def test_every_wrong_picture_is_rejected_by_every_operation(name: str, operation: str) -> None:
    status, sentence = NOT_TAKEN[name]
    refusal = rejection(SAMPLES[name], operation)
    assert refusal.status == status
    assert refusal.detail.startswith(sentence)


def test_all_that_is_wrong_on_purpose_is_rejected_as_it_should_be() -> None:
    assert list(NOT_TAKEN) == list(draw.NOT_TAKEN)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 415),
        (b"\x89PNG\r\n\x1a\n", 422),  # begins well
        (b"\xff\xd8\xff", 422),
        (b"GIF89a", 422),
        (b"RIFF\x04\x00\x00\x00WEBP", 422),
        (b"RIFF\x04\x00\x00\x00WAVE", 415),
        (b"%PDF-1.7\n%\xe2\xe3", 415),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        (stored(Image.new("RGB", (4, 4)), "BMP"), 415),  # a picture, of a kind that is not taken
        (stored(Image.new("RGB", (4, 4)), "TIFF"), 415),
        (stored(Image.new("RGB", (4, 4)), "PPM"), 415),
    ],
)
def test_the_content_decides_what_a_file_is(content: bytes, status: int) -> None:
    assert rejection(content).status == status


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_every_kind_of_animation_is_refused(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    content = stored(frames[0], kind, save_all=True, append_images=frames[1:])
    assert rejection(content).detail == "Send a still picture: this one is animated."


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_file_cut_short_anywhere_is_refused(kind: str) -> None:
    content = stored(draw.shore(96, 64), kind)
    for kept in range(4, len(content) - 40, len(content) // 40):
        assert rejection(content[:kept]).status in {415, 422}, kept


@pytest.mark.parametrize(
    "name", ["shore.jpg", "phone.jpg", "press.jpg", "badge.png", "badge.webp", "badge.gif", "deep.png"]
)
def test_damage_anywhere_is_survived_or_refused(name: str) -> None:
    """Nothing but a Reject leaves: what else a decoder raises would be tried again, for nothing."""
    random = Random(name)
    for _ in range(60):
        content = bytearray(SAMPLES[name])
        for _ in range(1 + int(random.random() * 8)):
            content[int(random.random() * len(content))] = int(random.random() * 256)
        with suppress(Reject):
            pictures.thumbnail(bytes(content), 32)


# Dimensions


def header_of(width: int, height: int) -> bytes:
    """A PNG that ends after its header: of one that is refused for its dimensions, nothing more is looked at."""
    content = stored(Image.new("L", (1, 1)))
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@pytest.mark.parametrize(
    ("width", "height", "sentence"),
    [
        (MAX_SIDE, 2_500, "Send the whole file"),  # as large as may be: its missing pixels are the next thing
        (MAX_SIDE, 2_501, "Send at most 25,000,000 pixels"),
        (5_000, 5_001, "Send at most 25,000,000 pixels"),
        (10_000, 10_000, "Send at most 25,000,000 pixels"),
        (MAX_SIDE + 1, 1, "Send at most 10,000 pixels a side"),
        (1, MAX_SIDE + 1, "Send at most 10,000 pixels a side"),
        (2**31 - 1, 2**31 - 1, "Send at most 25,000,000 pixels"),
    ],
)
def test_dimensions_are_judged_by_the_header(width: int, height: int, sentence: str) -> None:
    assert rejection(header_of(width, height)).detail.startswith(sentence)


def test_the_limits_are_pillows_own_too() -> None:
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS


def test_the_bomb_is_a_sound_picture_but_for_its_size() -> None:
    image = opened(draw.bomb(300, 200, RED))
    assert (image.size, image.getcolors()) == ((300, 200), [(60_000, RED)])
    assert len(SAMPLES["bomb.webp"]) == 32


MEASURE = """
import resource, sys
from pathlib import Path
from examples.images import draw, pictures
from penstock import Reject

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

content = {name: draw.FOLDER.joinpath(name).read_bytes() for name in sys.argv[1:]}
pictures.thumbnail(draw.FOLDER.joinpath("shore.webp").read_bytes(), 64)
before = peak()
for name in content:
    try:
        pictures.thumbnail(content[name], 64)
        raise SystemExit(name + " was taken")
    except Reject:
        pass
print(peak() - before)
"""


def test_a_bomb_takes_no_memory() -> None:
    """Decoded it would take 805 MB. Measured in a process of its own: the peak is the process's."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, "bomb.webp", "endless.png"], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 10_000, "kilobytes"


def test_a_bomb_is_refused_where_warnings_are_not_errors() -> None:
    """Between the limit and twice as much Pillow only warns, unless it is told otherwise."""
    program = (
        "from examples.images import pictures; from penstock import Reject; import sys\n"
        "try: pictures.thumbnail(sys.stdin.buffer.read(), 64)\n"
        "except Reject as refusal: print(refusal.status)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], input=header_of(6_000, 6_000), capture_output=True, check=True
    )
    assert (run.stdout, run.stderr) == (b"413\n", b"")


# The samples


@pytest.mark.parametrize("name", [*draw.TAKEN, *draw.NOT_TAKEN])
def test_the_samples_are_what_is_drawn(name: str) -> None:
    """To the byte where we write them ourselves; else to the eye, since encoders change with Pillow's version."""
    drawn = {**draw.TAKEN, **draw.NOT_TAKEN}[name]()
    if name in {"bomb.webp", "page.jpg"}:
        assert SAMPLES[name] == drawn
    elif name in draw.TAKEN:
        assert distance(opened(SAMPLES[name]), opened(drawn)) < 2
    assert len(SAMPLES[name]) < 30_000


def test_the_same_pictures_are_drawn_each_time() -> None:
    first, second = (hashlib.sha256(b"".join(draw.render().values())).hexdigest() for _ in range(2))
    assert first == second
