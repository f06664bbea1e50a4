"""Files of every format -> the frames that were written."""

import json
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from irstd_ldm.data.images import to_gray
from irstd_ldm.data.readers import (
    FRAME_SUFFIXES,
    IMAGE_SUFFIXES,
    READERS,
    ImageReadError,
    RawFormat,
    is_sequence,
    open_frames,
    read_image,
)
from irstd_ldm.data.readers.frame import RAW_TYPES
from irstd_ldm.data.readers.tiff import UNDO_ORIENTATION

RNG = np.random.default_rng(0)
GRAY8 = RNG.integers(0, 256, (20, 30), np.uint8)
GRAY16 = RNG.integers(0, 65536, (20, 30), np.uint16)
STACK16 = RNG.integers(0, 65536, (3, 20, 30), np.uint16)


def read(path: Path, start: int = 0, **keywords) -> list[np.ndarray]:
    source = open_frames(path, **keywords)
    frames = list(source.frames(start))
    assert source.path == path
    assert [frame.index for frame in frames] == list(range(start, source.num_frames))
    assert is_sequence(source) == (source.num_frames > 1)
    return [frame.image for frame in frames]


def assert_frames(path: Path, expected: np.ndarray, dtype: type | None = None, **keywords) -> None:
    """The file holds the frames `expected` (N, H, W), also from a later start on."""
    frames = read(path, **keywords)
    assert {frame.dtype for frame in frames} == {np.dtype(dtype or expected.dtype)}
    np.testing.assert_array_equal(np.stack(frames), expected)
    last = len(expected) - 1
    np.testing.assert_array_equal(read(path, start=last, **keywords)[0], expected[last])
    assert list(open_frames(path, **keywords).frames(start=last + 1)) == []


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.pgm", "a.tif", "a.PNG"])
def test_8_bit_stills(tmp_path, name):
    Image.fromarray(GRAY8).save(tmp_path / name)
    assert_frames(tmp_path / name, GRAY8[None])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_stills(tmp_path, name):
    Image.fromarray(GRAY16).save(tmp_path / name)
    assert_frames(tmp_path / name, GRAY16[None])


def test_jpeg_palette_and_colours_are_read_as_before(tmp_path):
    Image.fromarray(GRAY8).save(tmp_path / "a.jpg")
    colours = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8))
    colours.quantize(16).save(tmp_path / "palette.png")
    colours.convert("RGBA").save(tmp_path / "rgba.png")
    colours.convert("CMYK").save(tmp_path / "cmyk.tif")
    for name in ("a.jpg", "palette.png", "rgba.png", "cmyk.tif"):
        np.testing.assert_array_equal(read(tmp_path / name), [to_gray(tmp_path / name)])


@pytest.mark.parametrize(
    ("head", "values", "expected", "dtype"),
    [
        (b"P5 3 1 255\n", b"\x00\x07\xff", [0, 7, 255], np.uint8),
        (b"P5\n# of a camera\n3 1\n16383\n", struct.pack(">3H", 0, 300, 16383), [0, 300, 16383], np.uint16),
        (b"P5 3 1 15\n", b"\x00\x05\x0f", [0, 85, 255], np.uint8),
        (b"P2\n3 1\n16383\n", b"0 300\n# the last\n16383\n", [0, 300, 16383], np.uint16),
        (b"P2 3 1 255 ", b"0 7 255", [0, 7, 255], np.uint8),
    ],
)
def test_a_pgm_keeps_its_values(tmp_path, head, values, expected, dtype):
    (tmp_path / "a.pgm").write_bytes(head + values)
    assert_frames(tmp_path / "a.pgm", np.array([[expected]]), dtype)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"P6 1 1 255\n123", "no PGM file"),
        (b"P5 1 1 65536\n12", "no PGM file"),
        (b"P5 2 2 255\n123", "truncated"),
        (b"P5 1 1 255\n1P5 1 1 255\n1", "one image per file"),
        (b"P2 2 1 255\n1", "1 values for its pixels"),
        (b"P2 2 1 255\n1 x", "no number"),
        (b"P2 2 1 255\n1_0 +7", "no number"),
        (b"P2 1 1 255\n" + b"9" * 3000, "no number"),
        (b"P2 1 1 255\n" + b" " * 10**6 + b"7", "more than 16 bytes for each of its pixels"),
        (b"P2 1 1 65535\n70000", "no number below 65536"),
        (b"P5 0 4 255\n", "no pixel"),
    ],
)
def test_a_broken_pgm_is_refused_with_the_reason(tmp_path, content, reason):
    (tmp_path / "a.pgm").write_bytes(content)
    with pytest.raises(ImageReadError, match=rf"cannot read image '.*a\.pgm'.*{reason}"):
        read(tmp_path / "a.pgm")


@pytest.mark.parametrize(
    ("dtype", "read_as"),
    [
        ("uint8", np.uint8),
        (">u2", np.uint16),
        ("int16", np.int32),
        ("int32", np.int32),
        ("float16", np.float32),
        ("float32", np.float32),
        ("float64", np.float32),
    ],
)
def test_numpy_files_are_one_frame_or_a_stack(tmp_path, dtype, read_as):
    stack = RNG.integers(0, 100, (3, 20, 30)).astype(dtype)
    np.save(tmp_path / "stack.npy", stack)
    np.save(tmp_path / "one.npy", stack[0])
    np.save(tmp_path / "by_columns.npy", np.asfortranarray(stack))
    assert_frames(tmp_path / "stack.npy", stack, read_as)
    assert_frames(tmp_path / "one.npy", stack[:1], read_as)
    assert_frames(tmp_path / "by_columns.npy", stack, read_as)


@pytest.mark.parametrize("dtype", ["int8", "uint32", "int64", "uint64", "bool", "complex64", "S2", "V4"])
def test_numpy_files_of_other_types_are_refused_when_opened(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.zeros((4, 5), dtype))
    with pytest.raises(ImageReadError, match=r"a\.npy.*must be uint8, uint16, int16, int32 or floating point"):
        open_frames(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4, 5), (20, 30, 3), (20, 30, 4), (), (0, 4, 5)])
def test_numpy_files_of_other_shapes_are_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(ImageReadError, match=r"cannot read image '.*a\.npy'"):
        open_frames(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(20, 30, 1), (3, 20, 30, 1), (3, 1, 20, 30)])
def test_axes_of_one_channel_are_left_out(tmp_path, shape):
    array = RNG.integers(0, 65536, shape, np.uint16)
    np.save(tmp_path / "a.npy", array)
    assert_frames(tmp_path / "a.npy", array.reshape(-1, 20, 30))


@pytest.mark.parametrize("channels", [2, 5, 10])
def test_an_array_with_frames_or_channels_last_is_refused(tmp_path, channels):
    np.save(tmp_path / "a.npy", np.zeros((20, 30, channels), np.uint16))
    with pytest.raises(ImageReadError, match=r"may be \(H, W, channels\) or \(H, W, N\)"):
        open_frames(tmp_path / "a.npy")


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was run')",))


def test_pickled_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[Trap()]], object))
    with pytest.raises(ImageReadError, match="pickled objects"):
        open_frames(tmp_path / "a.npy")
    with pytest.raises(SystemExit, match="a pickle was run"):
        np.load(tmp_path / "a.npy", allow_pickle=True)


def test_a_truncated_numpy_file_is_refused(tmp_path):
    np.save(tmp_path / "whole.npy", STACK16)
    (tmp_path / "a.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-1])
    with pytest.raises(ImageReadError, match="truncated"):
        open_frames(tmp_path / "a.npy")


@pytest.mark.parametrize("text", ["uint8", "uint16le", "uint16be", "int16le", "int32be", "float32le"])
def test_raw_frames(tmp_path, text):
    raw = RawFormat.parse(f"30x20:{text}")
    stack = RNG.integers(0, 100, (3, 20, 30)).astype(RAW_TYPES[raw.value_type])
    stack.tofile(tmp_path / "a.raw")
    dtypes = {"uint8": np.uint8, "uint16": np.uint16, "int16": np.int32, "int32": np.int32, "float32": np.float32}
    assert_frames(tmp_path / "a.raw", stack, dtypes[text.removesuffix("le").removesuffix("be")], raw=raw)


def test_the_byte_order_of_raw_frames_by_hand(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"\x01\x02")
    assert read(tmp_path / "a.raw", raw=RawFormat.parse("1x1:uint16le"))[0].tolist() == [[0x0201]]
    assert read(tmp_path / "a.raw", raw=RawFormat.parse("1x1:uint16be"))[0].tolist() == [[0x0102]]


def test_raw_frames_behind_a_header(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"HEADER" + STACK16.astype("<u2").tobytes())
    assert_frames(tmp_path / "a.raw", STACK16, raw=RawFormat.parse("30x20:uint16le:offset=6"))
    with pytest.raises(ImageReadError, match="no whole number of frames"):
        open_frames(tmp_path / "a.raw", raw=RawFormat.parse("30x20:uint16le:offset=99999"))


@pytest.mark.parametrize(("width", "num_frames"), [(30, 2), (31, 1)])
def test_packed_values_of_12_bits(tmp_path, width, num_frames):
    stack = RNG.integers(0, 4096, (num_frames, 5, width), np.uint16)
    bits = np.unpackbits(stack.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 4:]  # of each value, highest first
    np.packbits(bits).tofile(tmp_path / "be.raw")
    np.packbits(bits[:, ::-1], bitorder="little").tofile(tmp_path / "le.raw")
    for order in ("be", "le"):
        assert_frames(tmp_path / f"{order}.raw", stack, raw=RawFormat.parse(f"{width}x5:uint12{order}"))


@pytest.mark.parametrize(
    "text",
    [
        "5x5:uint8:offset=-1",
        "5x5:uint8:12",
        "640x512",
        "640x512:uint16",
        "640x512:bool",
        "0x5:uint8",
        "axb:uint8",
        "",
        "5x5:u1",
    ],
)
def test_a_wrong_raw_format_is_refused_by_name(text):
    with pytest.raises(ValueError, match="`raw` must be WIDTHxHEIGHT:TYPE"):
        RawFormat.parse(text)


@pytest.mark.parametrize("size", [0, 599, 601, 1201])
def test_a_raw_file_is_a_whole_number_of_frames(tmp_path, size):
    (tmp_path / "a.raw").write_bytes(bytes(size))
    with pytest.raises(ImageReadError, match=rf"{size} bytes are no whole number of frames of 30x20 uint8, 600 bytes"):
        open_frames(tmp_path / "a.raw", raw=RawFormat.parse("30x20:uint8"))


def test_only_files_of_no_known_suffix_are_raw(tmp_path):
    Image.fromarray(GRAY8).save(tmp_path / "a.png")
    assert_frames(tmp_path / "a.png", GRAY8[None], raw=RawFormat.parse("1x1:uint8"))
    assert ".raw" not in FRAME_SUFFIXES


def test_multi_page_lzw_tiff_by_pillow_alone(tmp_path):
    pages = [Image.fromarray(page) for page in STACK16]
    pages[0].save(tmp_path / "a.tif", compression="tiff_lzw", save_all=True, append_images=pages[1:])
    assert_frames(tmp_path / "a.tif", STACK16)


PREDICTORS = {"u": 2, "i": 2, "f": 3}  # of TIFF: differences of whole numbers, and of floating point


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "read_as"),
    [
        (np.uint8, np.uint8),
        (np.uint16, np.uint16),
        (np.int16, np.int32),
        (np.int32, np.int32),
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float32),
    ],
)
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "deflate"])
def test_tiff_stacks_of_every_type(tmp_path, dtype, read_as, byteorder, bigtiff, compression):
    """`zlib` and `deflate` are the two numbers that TIFF has for one method."""
    pytest.importorskip("imagecodecs")
    stack = RNG.integers(0, 100, (3, 20, 30)).astype(dtype)
    keywords = {"photometric": "minisblack", "byteorder": byteorder, "bigtiff": bigtiff, "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", stack, **keywords)
    assert_frames(tmp_path / "a.tif", stack, read_as)
    if compression in ("lzw", "zlib"):
        tifffile.imwrite(tmp_path / "a.tif", stack, **keywords, predictor=PREDICTORS[stack.dtype.kind])
        assert_frames(tmp_path / "a.tif", stack, read_as)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_what_pillow_alone_would_misread_is_read_as_stored(tmp_path, dtype):
    """Big-endian and compressed: Pillow 12 gives 7 as 1792 (int16), without any error."""
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 5), 7, dtype), byteorder=">", compression="zlib")
    assert to_gray(tmp_path / "a.tif").tolist() == [[7] * 5] * 4


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize(
    ("dtype", "read_as"),
    [(np.uint8, np.uint8), (np.uint16, np.uint16), (np.int16, np.int32), (np.float32, np.float32)],
)
def test_values_to_be_shown_inverted_are_read_as_stored(tmp_path, dtype, read_as, compression, byteorder, bigtiff):
    pytest.importorskip("imagecodecs")
    stack = RNG.integers(0, 100, (2, 20, 30)).astype(dtype)
    keywords = {"byteorder": byteorder, "bigtiff": bigtiff, "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="miniswhite", **keywords)
    assert_frames(tmp_path / "a.tif", stack, read_as)


def test_bits_to_be_shown_inverted_are_read_as_stored(tmp_path):
    tags = ((256, 8), (257, 1), (258, 1), (259, 1), (262, 0), (273, 110), (278, 1), (279, 1))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<IH", 8, 8) + entries + bytes(4) + b"\xa0")  # 10100000
    expected = np.array([[255, 0, 255, 0, 0, 0, 0, 0]], np.uint8)
    assert_frames(tmp_path / "a.tif", expected[None])
    np.testing.assert_array_equal(to_gray(tmp_path / "a.tif"), expected)


def test_a_thermal_tiff_in_kelvin(tmp_path):
    kelvin = (285 + RNG.normal(0, 0.05, (20, 30))).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", kelvin)
    assert_frames(tmp_path / "a.tif", kelvin[None])


def test_16_bit_colours_of_a_tiff_keep_their_bits(tmp_path):
    colours = RNG.integers(0, 65536, (20, 30, 3), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    planes = np.moveaxis(colours, -1, 0)
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    alpha = np.concatenate([colours, colours[..., :1]], axis=-1)
    tifffile.imwrite(tmp_path / "alpha.tif", alpha, photometric="rgb", extrasamples=["unassalpha"])
    names = ["a.tif", "planes.tif", "alpha.tif"]
    pytest.importorskip("imagecodecs")
    for byteorder in "<>":
        for compression, predictor in (("lzw", None), ("lzw", 2), ("zlib", None), ("zlib", 2)):
            names.append(f"{byteorder}{compression}{predictor}.tif")
            keywords = {"byteorder": byteorder, "compression": compression, "predictor": predictor}
            tifffile.imwrite(tmp_path / names[-1], colours, photometric="rgb", **keywords)
    for name in names:
        np.testing.assert_array_equal(read(tmp_path / name), [to_gray(colours)])


def test_a_band_that_no_tag_explains_is_chosen_and_never_guessed(tmp_path):
    bands = RNG.integers(0, 65536, (20, 30, 5), np.uint16)
    tifffile.imwrite(tmp_path / "five.tif", bands, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "nir.tif", bands[..., :4], photometric="rgb", extrasamples=["unspecified"])
    planes = np.moveaxis(bands[..., :2], -1, 0)
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="minisblack", planarconfig="separate")
    for name, number in (("five.tif", 5), ("nir.tif", 4), ("planes.tif", 2)):
        with pytest.raises(
            ImageReadError, match=rf"{name}': {number} bands, and no tag .* `band` \(`--band N`, from 1\)"
        ):
            open_frames(tmp_path / name)
        assert_frames(tmp_path / name, bands[None, ..., number - 1], band=number)
        for band in (0, number + 1):
            with pytest.raises(ImageReadError, match=f"`band` must be 1 to {number}, got {band}"):
                open_frames(tmp_path / name, band=band)
    gray_alpha = Image.fromarray(np.dstack([GRAY8, GRAY8]), "LA")
    gray_alpha.save(tmp_path / "alpha.tif")
    assert_frames(tmp_path / "alpha.tif", GRAY8[None])
    gray_alpha.save(tmp_path / "a.png")
    with pytest.raises(ImageReadError, match="`band` is for TIFF files"):
        open_frames(tmp_path / "a.png", band=1)


def write_png16(path: Path, pixels: np.ndarray, colour_type: int) -> None:
    """(H, W, samples) uint16; colour types of PNG: 4 gray with alpha, 2 colours, 0 gray."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)  # 0: no filter
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def test_a_16_bit_png_with_alpha_is_refused_and_never_cut_to_8_bits(tmp_path):
    write_png16(tmp_path / "gray.png", GRAY16[..., None], 0)
    assert_frames(tmp_path / "gray.png", GRAY16[None])
    write_png16(tmp_path / "alpha.png", np.dstack([GRAY16, np.full_like(GRAY16, 65535)]), 4)
    for read_file in (read, to_gray):
        with pytest.raises(ImageReadError, match=r"cannot read image '.*alpha\.png': 16-bit gray with alpha"):
            read_file(tmp_path / "alpha.png")
    write_png16(tmp_path / "colours.png", np.dstack([GRAY16] * 3), 2)
    with pytest.raises(ImageReadError, match=r"colours\.png': 16-bit colours"):
        open_frames(tmp_path / "colours.png")
    gray_alpha = Image.fromarray(np.dstack([GRAY8, GRAY8]), "LA")
    gray_alpha.save(tmp_path / "8.png")
    assert_frames(tmp_path / "8.png", GRAY8[None])


def test_a_file_that_asks_for_all_memory_is_refused_by_its_name(tmp_path):
    Image.fromarray(np.zeros((24, 40), np.uint8)).save(tmp_path / "a.jp2")
    head, rest = (tmp_path / "a.jp2").read_bytes().split(b"jp2h")
    huge = struct.pack(">I4sQ", 1, b"jp2h", 2**60)  # the length of a box that is longer than 4 GiB
    (tmp_path / "a.png").write_bytes(head[:-4] + huge + rest)
    with pytest.raises(ImageReadError, match=r"a\.png': it asks for more memory than there is$"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("dtype", [np.int8, np.uint32, np.int64, np.complex64])
def test_tiff_files_of_other_types_are_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5), dtype), photometric="minisblack")
    with pytest.raises(ImageReadError, match="must be uint8, uint16, int16, int32 or floating point"):
        read(tmp_path / "a.tif")


def test_overviews_and_masks_of_a_tiff_are_no_frames(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(STACK16[0])
        tiff.write(STACK16[0][::2, ::2], subfiletype=1)
        tiff.write(STACK16[1])
        tiff.write(STACK16[0] > 9, subfiletype=4)
    assert_frames(tmp_path / "a.tif", STACK16[:2])


def test_pages_of_two_sizes_are_refused(tmp_path):
    for page in (GRAY16, GRAY16[:10]):
        tifffile.imwrite(tmp_path / "a.tif", page, append=True)
    with pytest.raises(ImageReadError, match="page 1 is 30x10, the first is 30x20"):
        open_frames(tmp_path / "a.tif")


def test_a_smaller_page_of_another_type_is_a_preview(tmp_path):
    for page in (GRAY16, GRAY8[::2, ::2]):
        tifffile.imwrite(tmp_path / "a.tif", page, append=True, photometric="minisblack")
    assert_frames(tmp_path / "a.tif", GRAY16[None])
    for page in (GRAY8[::2, ::2], GRAY16):
        tifffile.imwrite(tmp_path / "first.tif", page, append=True, photometric="minisblack")
    with pytest.raises(ImageReadError, match="page 1 is 30x20, the first is 15x10"):
        open_frames(tmp_path / "first.tif")


def write_tiff(path: Path, data: bytes, tags: dict[int, int | list[int]]) -> Path:
    """A little-endian TIFF of one page, its data from byte 8 on."""
    offset = 8 + len(data)
    lists = b"".join(struct.pack(f"<{len(value)}I", *value) for value in tags.values() if isinstance(value, list))
    entries = b""
    for tag, value in sorted(tags.items()):
        if isinstance(value, list):
            entries += struct.pack("<HHII", tag, 4, len(value), offset)
            offset += 4 * len(value)
        else:
            entries += struct.pack("<HHII", tag, 4, 1, value)
    page = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data) + len(lists)) + data + lists + page)
    return path


def deflated(num_bytes: int) -> bytes:
    return zlib.compress(bytes(num_bytes), 9)


HALF = {258: 16, 259: 8, 262: 1, 339: 3}  # deflated float16, which tifffile reads
HOSTILE = {  # data, tags, reason; each would take gigabytes or minutes, or give zeros that nobody measured
    "volume": (b"1" * 12, {256: 4000, 257: 4000, **HALF, 273: 8, 278: 4000, 279: 12, 32997: 500}, "a volume of 500"),
    "bands": (
        b"1" * 12,
        {256: 4000, 257: 4000, **HALF, 273: 8, 277: 200, 278: 4000, 279: 12},
        "are more than the limit",
    ),
    "tiles": (
        b"1" * 64,
        {256: 64, 257: 64, **HALF, 322: 2**20, 323: 2**16, 324: 8, 325: 64},
        "tiles of 1048576x65536",
    ),
    "missing": (b"1" * 600, {256: 30, 257: 20, 258: 16, 259: 1, 262: 1, 273: 8, 278: 10, 279: 600}, "are missing"),
    "sparse": (
        b"1" * 600,
        {256: 30, 257: 20, 258: 16, 259: 1, 262: 1, 273: [8, 0], 278: 10, 279: [600, 0]},
        "are missing",
    ),
    "shared": (deflated(60), {256: 30, 257: 20, **HALF, 273: [8] * 20, 278: 1, 279: [300] * 20}, "overlap"),
    "bomb": (
        deflated(10**7),
        {256: 30, 257: 20, **HALF, 273: 8, 278: 20, 279: len(deflated(10**7))},
        "holds more than",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_tiff_decodes_to_is_counted_before(tmp_path, name):
    data, tags, reason = HOSTILE[name]
    path = write_tiff(tmp_path / "a.tif", data, tags)
    tracemalloc.start()
    with pytest.raises(ImageReadError, match=rf"cannot read image '.*a\.tif': .*{reason}"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 5e6  # bytes
    tracemalloc.stop()


def test_a_tiff_of_too_many_tags_and_of_a_long_description_ends_at_once(tmp_path):
    tags = struct.pack("<HHII", 60000, 3, 1000, 8) * 20000
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<IH", 8, 20000) + tags + bytes(4))
    with pytest.raises(ImageReadError, match="broken"):
        open_frames(tmp_path / "a.tif")
    described = '{"shape": [' + "9," * 100_000 + "9]}"
    tifffile.imwrite(tmp_path / "b.tif", GRAY8, description=described, metadata=None)
    assert_frames(tmp_path / "b.tif", GRAY8[None])


@pytest.mark.parametrize("compression", ["zstd", "lzma", "lerc", "packbits"])
def test_rare_compressions(tmp_path, compression):
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(tmp_path / "a.tif", STACK16, photometric="minisblack", compression=compression)
    assert_frames(tmp_path / "a.tif", STACK16)


def test_a_tiff_cut_anywhere_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "float16.tif", STACK16.astype(np.float16), photometric="minisblack")
    pages = [Image.fromarray(page) for page in STACK16]
    pages[0].save(tmp_path / "lzw.tif", compression="tiff_lzw", save_all=True, append_images=pages[1:])
    for name in ("float16.tif", "lzw.tif"):
        whole = (tmp_path / name).read_bytes()
        for size in range(0, len(whole) - 1, len(whole) // 40):
            (tmp_path / "cut.tif").write_bytes(whole[:size])
            with pytest.raises(ImageReadError, match=r"cut\.tif"):
                read(tmp_path / "cut.tif")


@pytest.mark.parametrize("imagej", (False, True))
def test_a_stack_in_one_page_is_refused_and_never_its_first_frame(tmp_path, imagej):
    stack = np.arange(10 * 8 * 8, dtype=np.uint16).reshape(10, 8, 8)
    tifffile.imwrite(tmp_path / "one.tif", stack, truncate=True, imagej=imagej)
    with pytest.raises(ImageReadError, match="10 images in fewer pages"):
        open_frames(tmp_path / "one.tif")
    tifffile.imwrite(tmp_path / "ten.tif", stack, imagej=imagej)
    assert_frames(tmp_path / "ten.tif", stack)
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((9, 7, 3), np.uint8))
    assert len(read(tmp_path / "rgb.tif")) == 1
    with tifffile.TiffFile(tmp_path / "one.tif") as tiff:
        described = tiff.pages[0].description
    tifffile.imwrite(tmp_path / "taken.tif", stack[3], description=described, metadata=None)
    assert_frames(tmp_path / "taken.tif", stack[3:4])


def test_a_tiff_whose_pages_go_round_is_refused(tmp_path):
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, 3), (257, 2)))
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<IH", 8, 2) + tags + struct.pack("<I", 8))
    with pytest.raises(ImageReadError, match="broken"):
        open_frames(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_ignored(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(GRAY16)
    image.save(tmp_path / "a.png", exif=exif)
    image.save(tmp_path / "plain.tif", tiffinfo={274: orientation})
    image.save(tmp_path / "lzw.tif", tiffinfo={274: orientation}, compression="tiff_lzw")
    for name in ("a.png", "plain.tif", "lzw.tif"):
        assert_frames(tmp_path / name, GRAY16[None])
        np.testing.assert_array_equal(to_gray(tmp_path / name), GRAY16)
    smooth = Image.fromarray(np.add.outer(np.arange(20), np.arange(30)).astype(np.uint8))
    smooth.save(tmp_path / "a.jpg", exif=exif)
    smooth.save(tmp_path / "without.jpg")
    np.testing.assert_array_equal(read(tmp_path / "a.jpg"), read(tmp_path / "without.jpg"))
    assert len(UNDO_ORIENTATION) == 7


def write_giants(folder: Path, width: int, height: int) -> list[str]:
    """Small files of every format that claim frames of this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT")
    (folder / "a.bmp").write_bytes(
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 1078, 40, width, height, 1, 8, *[0] * 6)
    )
    (folder / "a.pgm").write_bytes(b"P5 %d %d 255\n" % (width, height))
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, width), (257, height)))
    (folder / "a.tif").write_bytes(b"II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4))
    with (folder / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (height, width)})
        file.truncate(file.tell() + width * height)  # holes: no space on the disk
    with (folder / "a.raw").open("wb") as file:
        file.truncate(width * height)
    return ["a.png", "a.bmp", "a.pgm", "a.tif", "a.npy", "a.raw"]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_giant_frames_are_refused_before_they_are_decoded(tmp_path):
    raw = RawFormat.parse("12000x12000:uint8")
    tracemalloc.start()
    for name in write_giants(tmp_path, 12_000, 12_000):
        with pytest.raises(ImageReadError, match=rf"{name}'.*12000x12000 is more than the limit of 100 megapixels"):
            open_frames(tmp_path / name, raw=raw)
    assert tracemalloc.get_traced_memory()[1] < 20e6  # bytes; a frame has 144e6
    tracemalloc.stop()


def test_the_limit_lets_an_8k_panorama_through_and_can_be_set(tmp_path):
    for name in write_giants(tmp_path, 8192, 8192)[2:]:
        assert open_frames(tmp_path / name, raw=RawFormat.parse("8192x8192:uint8")).num_frames == 1
    Image.fromarray(GRAY8).save(tmp_path / "small.png")
    assert read(tmp_path / "small.png", max_pixels=600)[0].shape == (20, 30)
    with pytest.raises(ImageReadError, match="30x20 is more than the limit of 0.000599 megapixels"):
        open_frames(tmp_path / "small.png", max_pixels=599)


def test_an_animation_is_no_still_image(tmp_path):
    frames = [Image.fromarray(GRAY8 + i) for i in range(2)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageReadError, match="an animation"):
        open_frames(tmp_path / "a.gif")


def test_files_of_other_suffixes_are_told_by_their_first_bytes(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", STACK16, photometric="minisblack", byteorder=">", compression="zlib")
    np.save(tmp_path / "a.npy", STACK16)
    (tmp_path / "a.pgm").write_bytes(b"P5 30 20 65535\n" + GRAY16.astype(">u2").tobytes())
    for name, expected in (("a.tif", STACK16), ("a.npy", STACK16), ("a.pgm", GRAY16[None])):
        for other in ("a.dat", "a.png"):
            (tmp_path / other).write_bytes((tmp_path / name).read_bytes())
            assert_frames(tmp_path / other, expected)
    (tmp_path / "a.fits").write_bytes(b"SIMPLE  =                    T")
    with pytest.raises(
        ImageReadError, match=r"a\.fits': .*a format that is not read .* save its frames as \.npy or TIFF"
    ):
        open_frames(tmp_path / "a.fits")


def test_a_radiometric_jpeg_is_refused_with_the_way_out(tmp_path):
    Image.fromarray(GRAY8).save(tmp_path / "plain.jpg")
    plain = (tmp_path / "plain.jpg").read_bytes()
    segment = b"FLIR\0\1" + bytes(20)
    (tmp_path / "a.jpg").write_bytes(
        plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    )
    with pytest.raises(ImageReadError, match=r"a\.jpg': a radiometric JPEG.*export a 16-bit TIFF"):
        open_frames(tmp_path / "a.jpg")


def test_where_one_image_is_due_a_stack_is_an_error(tmp_path):
    np.save(tmp_path / "a.npy", STACK16)
    tifffile.imwrite(tmp_path / "a.tif", STACK16, photometric="minisblack")
    for path in (tmp_path / "a.npy", tmp_path / "a.tif"):
        for read_one in (read_image, to_gray):
            with pytest.raises(
                ImageReadError, match=r"cannot read image '.*a\.\w+': 3 frames, where one image is due"
            ):
                read_one(path)


def test_every_list_of_suffixes_is_that_of_the_table():
    assert set(FRAME_SUFFIXES) == set(READERS) and set(IMAGE_SUFFIXES) < set(FRAME_SUFFIXES)
    assert {".png", ".tif", ".npy", ".pgm"} <= set(IMAGE_SUFFIXES) and ".mp4" not in IMAGE_SUFFIXES


def test_the_table_is_read_without_numpy_and_pillow():
    code = "import sys, irstd_ldm.data.readers\nprint({'numpy', 'PIL', 'tifffile', 'av'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_postscript_file_starts_no_other_program(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    for open_file in (open_frames, to_gray):
        with pytest.raises(ImageReadError, match="not an image"):
            open_file(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy", ".pgm", ".raw"])
def test_missing_files_and_folders_keep_the_error_of_the_file_system(tmp_path, suffix):
    raw = RawFormat.parse("1x1:uint8")
    with pytest.raises(FileNotFoundError):
        open_frames(tmp_path / f"missing{suffix}", raw=raw)
    (tmp_path / f"a{suffix}").mkdir()
    with pytest.raises(IsADirectoryError):
        open_frames(tmp_path / f"a{suffix}", raw=raw)


def test_a_stack_is_read_in_the_memory_of_one_frame(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((200, 100, 100), np.uint16))
    np.zeros((200, 100, 100), np.uint16).tofile(tmp_path / "a.raw")
    for name in ("a.npy", "a.raw"):
        tracemalloc.start()
        assert sum(1 for _ in open_frames(tmp_path / name, raw=RawFormat.parse("100x100:uint16le")).frames()) == 200
        assert tracemalloc.get_traced_memory()[1] < 10 * 20_000  # bytes: 10 frames of 200
        tracemalloc.stop()


def test_lzw_without_imagecodecs_names_it(tmp_path):
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(tmp_path / "a.tif", GRAY16.astype(np.float16), compression="lzw")
    code = (
        "import sys, json; sys.modules['imagecodecs'] = None\n"
        "from irstd_ldm.data import open_frames\n"
        "try: list(open_frames(sys.argv[1]).frames())\n"
        "except ValueError as error: print(json.dumps(str(error)))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.tif"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout).endswith(
        'requires the \'imagecodecs\' package: pip install "av>=14" "imagecodecs>=2024.6"'
    )


@pytest.mark.parametrize(("tag", "missing"), [("0", 0), ("nan", np.nan), ("-9999", -9999)])
def test_pixels_that_a_geotiff_declares_to_be_no_data_get_the_median_of_the_others(tmp_path, tag, missing):
    frame = GRAY16[:8, :8].astype(np.int32 if missing < 0 else np.uint16 if missing == 0 else np.float32)
    frame[:2] = missing
    tifffile.imwrite(tmp_path / "a.tif", frame, extratags=[(42113, "s", 0, tag, True)])
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image[2:], frame[2:])
    assert set(image[:2].ravel()) == {np.median(frame[2:]).astype(frame.dtype)}


def test_colours_are_warned_of_once(tmp_path, caplog):
    heat = np.stack([GRAY8, 255 - GRAY8, GRAY8 // 2], axis=2)
    tifffile.imwrite(tmp_path / "heat.tif", np.stack([heat, heat]), photometric="rgb")
    Image.fromarray(heat).save(tmp_path / "heat.png")
    Image.fromarray(np.stack([GRAY8] * 3, axis=2)).save(tmp_path / "gray.png")
    for _ in range(2):
        list(open_frames(tmp_path / "heat.tif").frames())
    read_image(tmp_path / "heat.png")
    read_image(tmp_path / "gray.png")
    told = [record.getMessage() for record in caplog.records]
    assert [line.split("' is")[0][-8:] for line in told] == ["heat.tif", "heat.png"], told
