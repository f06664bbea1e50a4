"""Files of every format, damaged in many ways: frames of the size that the head says, or an error of one line.

The bounded campaign of `make test`; `make fuzz` goes on for FUZZ_SECONDS with another seed.
"""

import io
import logging
import os
import random
import struct
import time
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from irstd_ldm.data.readers import open_frames
from irstd_ldm.data.readers.frame import IMAGE_ERRORS, ImageReadError

SECONDS = float(os.environ.get("FUZZ_SECONDS", 8))
SEED = int(os.environ.get("FUZZ_SEED", 0))
MAX_PIXELS = 10**6
MAX_S, MAX_BYTES = 5, 2**28  # of one file; a busy machine is slow
NOISE = np.random.default_rng(0).integers(0, 4000, (3, 24, 40)).astype(np.uint16)
GRAY = (NOISE[0] // 16).astype(np.uint8)


def seeds() -> dict[str, bytes]:
    """A small whole file of every format, by its suffix and a word."""
    found = {}
    for name, format, options in (
        ("gray.png", "PNG", {}),
        ("a.bmp", "BMP", {}),
        ("a.jpg", "JPEG", {}),
        ("b.jpg", "JPEG", {"progressive": True}),
        ("gif.png", "GIF", {}),
        ("webp.png", "WEBP", {"lossless": True}),
        ("jp2.png", "JPEG2000", {}),
    ):
        data = io.BytesIO()
        Image.fromarray(GRAY).save(data, format, **options)
        found[name] = data.getvalue()
    data = io.BytesIO()
    Image.fromarray(NOISE[0]).save(data, "PNG")
    found["deep.png"] = data.getvalue()
    for name, options in (
        ("raw.tif", {}),
        ("big.tif", {"bigtiff": True, "byteorder": ">"}),
        ("deflate.tif", {"compression": "zlib", "rowsperstrip": 8}),
        ("tiles.tif", {"compression": "zlib", "tile": (16, 16)}),
        ("colours.tif", {"photometric": "rgb"}),
    ):
        data = io.BytesIO()
        tifffile.imwrite(data, np.stack([GRAY] * 3, -1) if name == "colours.tif" else NOISE, **options)
        found[name] = data.getvalue()
    data = io.BytesIO()
    np.save(data, NOISE)
    found["a.npy"] = data.getvalue()
    found["a.pgm"] = b"P5 40 24 255\n" + GRAY.tobytes()
    found["plain.pgm"] = b"P2\n# plain\n40 24\n255\n" + b" ".join(b"%d" % value for value in GRAY.ravel())
    return found


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut out, put in twice, or replaced by numbers at the ends of their types."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        start = min(rng.randrange(len(changed) + 1), rng.randrange(len(changed) + 1))  # heads more often
        end = start + rng.randrange(1, 16)
        kind = rng.randrange(6)
        if kind == 0:
            changed[start : start + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del changed[start : rng.choice((end, len(changed)))]
        elif kind == 2:
            changed[start:start] = changed[start:end] * rng.choice((1, 100))
        elif kind == 3:
            changed[start : start + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"))
        elif kind == 4:
            changed[start:end] = rng.randbytes(end - start)
        else:
            changed[start : start + 1] = rng.choice((b"-", b"#", b" ", b"\n", b"9" * 12))
    return bytes(changed)


def most_resident_bytes() -> int:
    """The most that this process has held so far; what is asked for and never touched does not count."""
    resource = pytest.importorskip("resource")
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def check(path, rng: random.Random) -> None:
    """Reads the frames of a file; a finding is another error, a frame of no image's kind, or too much of anything."""
    start = time.process_time()
    try:
        source = open_frames(path, max_pixels=MAX_PIXELS)
        for number, frame in enumerate(source.frames()):
            assert frame.image.ndim == 2 and 0 < frame.image.size <= MAX_PIXELS
            assert frame.image.dtype in (np.uint8, np.uint16, np.int32, np.float32)
            assert np.isfinite(frame.image).all() and number < source.num_frames
    except IMAGE_ERRORS as error:
        assert "\n" not in str(error) and str(path) in str(error)
    assert time.process_time() - start < MAX_S


@pytest.fixture
def unlogged():
    """Without records: pytest keeps every one, 272 MB of them after 390,000 damaged files."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused(tmp_path, unlogged):
    rng, whole = random.Random(SEED), seeds()
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
        assert next(open_frames(tmp_path / name).frames()).image.shape == (24, 40)
    end, number = time.monotonic() + SECONDS, 0
    resident = most_resident_bytes()
    while time.monotonic() < end:
        name = rng.choice(list(whole))
        path = tmp_path / f"damaged-{name}"
        path.write_bytes(damaged(whole[name], rng))
        try:
            check(path, rng)
            assert most_resident_bytes() - resident < MAX_BYTES
        except BaseException:
            kept = path.with_name(f"finding-{SEED}-{number}-{name}")
            path.rename(kept)
            print(f"finding: {kept}")
            raise
        number += 1
    print(f"{number} damaged files of {len(whole)} formats, seed {SEED}")
    assert number > 20


def test_data_that_ends_in_good_order_before_the_last_row_is_refused(tmp_path):
    """A PNG whose compressed data is whole and short, which Pillow reads as rows of zeros."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for interlaced in (0, 1):
        for rows in (24, 12):
            head = struct.pack(">IIBBBBB", 40, 24, 8, 0, 0, 0, interlaced)
            pixels = zlib.compress(bytes(rows * 41 if not interlaced else rows * 45))
            data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
            (tmp_path / "a.png").write_bytes(data)
            if rows == 24:
                assert next(open_frames(tmp_path / "a.png").frames()).image.shape == (24, 40)
            else:
                with pytest.raises(ValueError, match="truncated"):
                    list(open_frames(tmp_path / "a.png").frames())


def test_a_box_longer_than_any_file_is_an_error_of_the_file(tmp_path):
    """A JPEG 2000 beyond whose first box Pillow seeks, which the system refuses with an error of its own."""
    signature = b"\0\0\0\x0cjP  \r\n\x87\n"
    (tmp_path / "a.png").write_bytes(signature + struct.pack(">I4sQ", 1, b"free", 2**63 - 1))
    with pytest.raises(ImageReadError, match=r"a\.png': not an image or truncated"):
        open_frames(tmp_path / "a.png")


def test_an_offset_to_nowhere_is_an_error_of_the_file(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", NOISE[0], bigtiff=True)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[8:16] = b"\xff" * 8  # where the first page lies
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ImageReadError, match=r"a\.tif': not a TIFF file, truncated or broken"):
        open_frames(tmp_path / "a.tif")


def test_pages_are_counted_together_before_they_are_decoded(tmp_path):
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 1024, 1024), np.uint8), compression="lzma")
    assert open_frames(tmp_path / "a.tif").num_frames == 20
    with pytest.raises(ImageReadError, match="in so small a file are more than the limit"):
        open_frames(tmp_path / "a.tif", max_pixels=2**20)
