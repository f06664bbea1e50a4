"""Frames of video files, written by PyAV itself."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from irstd_ldm.data.readers import ImageReadError, is_sequence, open_frames
from irstd_ldm.data.readers.video import VideoFrames

av = pytest.importorskip("av")


def write_video(path: Path, frames, codec: str = "ffv1", pixel_format: str = "gray", rate: int = 25) -> Path:
    """Frames (H, W) of uint8 or uint16 into a file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, height=frames[0].shape[0], width=frames[0].shape[1])
        stream.pix_fmt = pixel_format
        for image in frames:
            source = "gray" if image.dtype == np.uint8 else pixel_format
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format=source)))
        container.mux(stream.encode())
    return path


def noise(num_frames: int = 12, dtype: type = np.uint8, highest: int = 255) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, highest, (num_frames, 48, 64), dtype, endpoint=True))


@pytest.mark.parametrize("suffix", ("mkv", "avi"))
@pytest.mark.parametrize(
    ("pixel_format", "dtype", "highest"),
    (("gray", np.uint8, 255), ("gray16le", np.uint16, 65535), ("gray12le", np.uint16, 4095)),
)
def test_gray_values_are_kept(tmp_path, suffix, pixel_format, dtype, highest):
    images = noise(5, dtype, highest)
    source = open_frames(write_video(tmp_path / f"clip.{suffix}", images, pixel_format=pixel_format))
    frames = list(source.frames())
    assert source.frames_per_second == 25 and is_sequence(source)
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    for frame, image in zip(frames, images, strict=True):
        assert frame.image.dtype == dtype
        np.testing.assert_array_equal(frame.image, image)


@pytest.mark.parametrize(("codec", "suffix"), (("libx264", "mp4"), ("mpeg4", "avi"), ("mjpeg", "avi")))
def test_colour_video_gives_its_luma_in_full_range(tmp_path, codec, suffix):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    images = [np.full((48, 64), value, np.uint8) for value in (0, 50, 128, 200, 255)]
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = write_video(tmp_path / f"clip.{suffix}", images, codec, pixel_format)
    source = VideoFrames(path)
    assert source.num_frames == 5
    values = [frame.image.mean() for frame in source.frames()]
    assert all(frame.image.dtype == np.uint8 for frame in source.frames())
    np.testing.assert_allclose(values, (0, 50, 128, 200, 255), atol=2)


@pytest.mark.parametrize("codec", ("ffv1", "libx264"))
@pytest.mark.parametrize("start", (0, 1, 7, 11, 12))
def test_any_frame_can_be_the_first(tmp_path, codec, start):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = write_video(tmp_path / "clip.mkv", noise(), codec, "gray" if codec == "ffv1" else "yuv420p")
    source = VideoFrames(path)
    every, later = list(source.frames()), list(source.frames(start))
    assert [frame.index for frame in later] == list(range(start, 12))
    for frame, same in zip(later, every[start:], strict=True):
        assert frame.time_s == same.time_s
        np.testing.assert_array_equal(frame.image, same.image)


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


@pytest.mark.parametrize("suffix", ("avi", "mkv"))
def test_a_truncated_file_is_named_after_the_frames_that_could_be_read(tmp_path, suffix):
    images = noise()
    source = VideoFrames(cut(write_video(tmp_path / f"clip.{suffix}", images), 0.6))
    frames = []
    with pytest.raises(ImageReadError, match=rf"clip\.{suffix}'.*(truncated|decoded|damaged)"):
        frames.extend(frame for frame in source.frames())
    read = []
    with pytest.raises(ImageReadError):
        for frame in source.frames():
            read.append(frame)
    assert 3 <= len(read) <= 8
    for frame, image in zip(read, images, strict=False):
        np.testing.assert_array_equal(frame.image, image)


def write_timed(path: Path, times: list[int], last_duration: int = 1) -> Path:
    """Frames at these multiples of 1/25 s, the last of which is shown for some of them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1" if path.suffix != ".mp4" else "mpeg4", rate=25, height=48, width=64)
        stream.pix_fmt = "gray" if path.suffix != ".mp4" else "yuv420p"
        for image, time in zip(noise(len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="gray")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            for packet in stream.encode(frame):
                packet.duration = last_duration if time == times[-1] else 1
                container.mux(packet)
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "times", "last_duration"),
    (("gap.avi", [0, 1, 2, 3, 6, 7, 8, 9], 1), ("held.mp4", list(range(20)), 25), ("held.mkv", list(range(20)), 25)),
)
def test_dropped_and_held_frames_are_no_truncation(tmp_path, name, times, last_duration):
    source = VideoFrames(write_timed(tmp_path / name, times, last_duration))
    assert len(list(source.frames())) == len(times)
    cut(tmp_path / name, 0.6)
    with pytest.raises(ImageReadError):
        list(VideoFrames(tmp_path / name).frames())


def test_files_that_are_no_video(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("not a video\n" * 20)
    empty = tmp_path / "empty.avi"
    empty.touch()
    headless = cut(write_video(tmp_path / "headless.mp4", noise(), "mpeg4", "yuv420p"), 0.7)  # its index is at the end
    for path in (text, empty, headless):
        with pytest.raises(ImageReadError, match=f"cannot read video '.*{path.name}': not a video or truncated"):
            VideoFrames(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4"):
        VideoFrames(tmp_path / "absent.mp4")
    with pytest.raises(IsADirectoryError):
        VideoFrames(tmp_path)


@pytest.mark.parametrize("name", ("tcp:127.0.0.1:9.mkv", "2024-01-01T12:30:05.mkv", "concat:a|b.mkv"))
def test_a_name_like_an_address_is_that_of_a_file(tmp_path, monkeypatch, name):
    images = noise(3)
    write_video(tmp_path / "clip.mkv", images)
    (tmp_path / "clip.mkv").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal([frame.image for frame in open_frames(name).frames()], images)


def test_a_codec_that_ffmpeg_does_not_know_is_named(tmp_path):
    path = write_video(tmp_path / "clip.avi", noise(3), "mjpeg", "yuvj420p")
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"ZZZZ"))
    with pytest.raises(ImageReadError, match=r"cannot read video '.*clip\.avi': of a codec that FFmpeg does not know"):
        open_frames(path)


CODECS = {"webm": "libvpx", "wmv": "wmv2", "mpg": "mpeg2video", "ts": "mpeg2video", "nut": "ffv1", "m4v": "mpeg4"}


@pytest.mark.parametrize("suffix", CODECS)
def test_other_containers(tmp_path, suffix):
    codec = CODECS[suffix]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    values = np.repeat((0, 50, 128, 200, 255), 6)
    images = [np.full((48, 64), value, np.uint8) for value in values]
    pixel_format = "gray" if codec == "ffv1" else "yuv420p"
    source = open_frames(write_video(tmp_path / f"clip.{suffix}", images, codec, pixel_format))
    np.testing.assert_allclose([frame.image.mean() for frame in source.frames()], values, atol=4)


def test_sound_without_pictures(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(ImageReadError, match="no video stream"):
        VideoFrames(path)


def test_large_frames_are_refused(tmp_path):
    path = write_video(tmp_path / "clip.mkv", noise(2))
    assert len(list(VideoFrames(path, max_pixels=48 * 64).frames())) == 2
    with pytest.raises(ImageReadError, match="64x48 is more than the limit"):
        VideoFrames(path, max_pixels=48 * 64 - 1)


def test_without_pyav_the_extra_is_named(tmp_path):
    path = write_video(tmp_path / "clip.mkv", noise(2))
    code = f"""
import sys
sys.modules["av"] = None
from irstd_ldm.data.readers import open_frames
try:
    open_frames({str(path)!r})
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'video needs PyAV: pip install "av>=14" "imagecodecs>=2024.6"'
