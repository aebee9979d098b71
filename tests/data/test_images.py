import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from dat.data.images import decode, to_rgb
from dat.errors import DataError

GREY = np.arange(240, dtype=np.uint8).reshape(12, 20)
COLOURS = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)
ALPHA = (GREY // 2 + 3)[..., None]


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def palette_picture() -> Image.Image:
    picture = Image.fromarray(GREY).copy()
    picture = Image.frombytes("P", picture.size, GREY.tobytes())
    picture.putpalette(np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], axis=1).astype(np.uint8).tobytes())
    return picture


def palette_colours() -> np.ndarray:
    return np.stack([GREY, 255 - GREY, GREY // 2], axis=2)


def yellow_to_blue(colours: np.ndarray) -> Image.Image:
    """Full-range BT.601, written out here: what JPEG means by YCbCr."""
    red, green, blue = colours.astype(np.float64).transpose(2, 0, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma, 128 + (blue - luma) * 0.564334, 128 + (red - luma) * 0.713267]
    values = np.rint(np.stack(planes, axis=2)).clip(0, 255).astype(np.uint8)
    return Image.frombytes("YCbCr", values.shape[1::-1], values.tobytes())


def ink(colours: np.ndarray) -> Image.Image:
    values = np.concatenate([255 - colours, np.zeros_like(colours[..., :1])], axis=2)
    return Image.frombytes("CMYK", values.shape[1::-1], values.tobytes())


def with_transparent_entry() -> Image.Image:
    picture = palette_picture()
    picture.info["transparency"] = bytes(range(240))
    return picture


MODES = {
    "1": (Image.fromarray(GREY > 100), "png", repeated(np.where(GREY > 100, 255, 0).astype(np.uint8)), 0),
    "L": (Image.fromarray(GREY), "png", repeated(GREY), 0),
    "LA": (Image.fromarray(np.concatenate([GREY[..., None], ALPHA], axis=2)), "png", repeated(GREY), 0),
    "P": (palette_picture(), "png", palette_colours(), 0),
    "P with alpha": (with_transparent_entry(), "png", palette_colours(), 0),
    "RGB": (Image.fromarray(COLOURS), "png", COLOURS, 0),
    "RGBA": (Image.fromarray(np.concatenate([COLOURS, ALPHA], axis=2)), "png", COLOURS, 0),
    "CMYK": (ink(COLOURS), "tiff", COLOURS, 0),
    "YCbCr": (yellow_to_blue(COLOURS), "tiff", COLOURS, 2),
    "I;16": (Image.fromarray(GREY.astype(np.uint16) * 257), "png", repeated(GREY), 0),
    "I;16 tiff": (Image.fromarray(GREY.astype(np.uint16) * 257 + 100), "tiff", repeated(GREY), 0),
    "I": (Image.fromarray(GREY.astype(np.int32) * 257), "tiff", repeated(GREY), 0),
    "F to 1": (Image.fromarray((GREY / 255).astype(np.float32)), "tiff", repeated(GREY), 0),
    "F to 255": (Image.fromarray(GREY.astype(np.float32)), "tiff", repeated(GREY), 0),
    "F to 65535": (Image.fromarray((GREY * 257.0).astype(np.float32)), "tiff", repeated(GREY), 0),
    "1x1": (Image.fromarray(GREY[3:4, 5:6]), "png", repeated(GREY[3:4, 5:6]), 0),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_the_same_rgb(mode: str, tmp_path: Path) -> None:
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 does not read the YCbCr TIFF that it writes")
    picture, extension, expected, tolerance = MODES[mode]
    path = tmp_path / f"picture.{extension}"
    picture.save(path)
    decoded = decode(path)
    assert decoded.mode == "RGB"
    difference = np.abs(np.asarray(decoded).astype(int) - expected.astype(int))
    assert difference.max() <= tolerance


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "HSV", "I;16B"])
def test_modes_that_no_written_file_has(mode: str) -> None:
    rgb = Image.fromarray(repeated(GREY))
    opaque = rgb.convert("RGBA")
    sources = {
        "PA": lambda: palette_picture().convert("PA"),
        "La": lambda: rgb.convert("LA").convert("La"),
        "RGBa": lambda: opaque.convert("RGBa"),
        "HSV": lambda: rgb.convert("HSV"),
        "I;16B": lambda: Image.frombytes("I;16B", rgb.size, (GREY.astype(">u2") * 257).astype(">u2").tobytes()),
    }
    picture = sources[mode]()
    assert picture.mode == mode
    expected = palette_colours() if mode == "PA" else repeated(GREY)
    np.testing.assert_array_equal(np.asarray(to_rgb(picture)), expected)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    decoded = np.asarray(decode(tmp_path / "x.png"))[..., 0]
    np.testing.assert_array_equal(decoded, np.rint(values / 257.0).astype(np.uint8))


def grey_tiff(held: bytes, *, bits: int, zero_is_white: bool, floating: bool = False) -> bytes:
    """A TIFF of 20x12 written out here, as Pillow writes neither 12 bits nor white as 0."""
    photometric, kind, long, short = (0 if zero_is_white else 1), (3 if floating else 1), 4, 3
    entries = [(256, short, 20), (257, short, 12), (258, short, bits), (259, short, 1), (262, short, photometric)]
    entries += [(273, long, 8), (277, short, 1), (278, short, 12), (279, long, len(held)), (339, short, kind)]
    table = b"".join(struct.pack("<HHII", tag, form, 1, value) for tag, form, value in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(held)) + held + struct.pack("<H", len(entries)) + table + bytes(4)


def packed_12_bits(values: np.ndarray) -> bytes:
    first, second = values.reshape(-1, 2).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8).tobytes()


HELD = {
    8: GREY.tobytes(),
    12: packed_12_bits(np.rint(GREY * (4095 / 255)).astype(np.uint16)),
    16: (GREY.astype("<u2") * 257).tobytes(),
    32: (GREY / 255).astype("<f4").tobytes(),
}


@pytest.mark.parametrize(("bits", "zero_is_white"), [(8, True), (12, False), (16, False), (16, True), (32, False), (32, True)])
def test_a_tiff_says_where_white_is(bits: int, *, zero_is_white: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(grey_tiff(HELD[bits], bits=bits, zero_is_white=zero_is_white, floating=bits == 32))
    np.testing.assert_array_equal(np.asarray(decode(path)), repeated(255 - GREY if zero_is_white else GREY))


def test_orientation_is_not_applied_and_the_first_frame_is_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOURS).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "x.png")), COLOURS)
    frames = [palette_picture(), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "x.gif")), palette_colours())


def test_the_content_counts_not_the_extension(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    wrong = (tmp_path / "x.png").rename(tmp_path / "x.jpg")
    np.testing.assert_array_equal(np.asarray(decode(wrong)), COLOURS)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG header that promises 20,000 x 20,000 pixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png()[33:]


def float_tiff(value: float) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


DAMAGED = {
    "empty": (b"", "0 bytes"),
    "one byte": (b"\xff", "not an image"),
    "half a jpeg": (jpeg()[: len(jpeg()) // 2], "truncated"),
    "half a png": (png()[: len(png()) // 2], "Cannot read"),
    "flipped bytes": (png()[:60] + bytes(64) + png()[124:], "Cannot read"),
    "text": (b"a list of files\n" * 20, "not an image"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
    "bomb": (bomb(), "decompression bomb"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "not a number": (float_tiff(float("nan")), "nan"),
    "negative": (float_tiff(-1.0), "-1"),
    "beyond 16 bits": (float_tiff(70000.0), "70000"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files_are_errors_that_name_the_file(kind: str, tmp_path: Path) -> None:
    content, part = DAMAGED[kind]
    path = tmp_path / "picture 7.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=part) as caught:
        decode(path)
    assert str(path) in str(caught.value)
    assert f"{len(content)} bytes" in str(caught.value)


def test_every_truncation_of_a_jpeg_is_an_error_or_the_picture(tmp_path: Path) -> None:
    whole, path = jpeg(), tmp_path / "x.jpg"
    for size in range(0, len(whole) - 2, max(1, len(whole) // 100)):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"{size} bytes"):
            decode(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.png \(no such file\)"):
        decode(tmp_path / "absent.png")


def test_a_folder_is_not_a_picture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="directory"):
        decode(tmp_path)
