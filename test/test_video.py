"""Video files, written and read back."""

import struct
from itertools import pairwise

import av
import numpy as np
import pytest

from rt_seg_ros import video
from rt_seg_ros.errors import UserError
from rt_seg_ros.sources import open_source
from rt_seg_ros.video import VideoReader, VideoWriter


def picture(number, height=48, width=64):
    """A smooth picture, another one for each number."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(x * 3 + 10 * number) % 200, y * 3 + 20, (x + y + 5 * number) % 220], axis=2).astype(np.uint8)


def flat(color, height=48, width=64):
    return np.full((height, width, 3), color, np.uint8)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_what_is_written_is_read_back(tmp_path, monkeypatch, codec, suffix):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    monkeypatch.setattr(video, "_codec", lambda: codec)
    path = tmp_path / f"drive{suffix}"
    with VideoWriter(path, fps=10) as writer:
        for number in range(12):
            writer.write(picture(number))
        assert not path.exists()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    reader = VideoReader(path)
    assert reader.fps == pytest.approx(10, rel=0.01)
    frames = list(reader)
    assert len(frames) == writer.frames == 12
    assert [seconds for seconds, _ in frames] == pytest.approx([n / 10 for n in range(12)], abs=0.002)
    assert all(np.abs(image.astype(int) - picture(n)).mean() < 8 for n, (_, image) in enumerate(frames))
    assert reader.problem == ""
    assert len(list(reader)) == 12  # and once more


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (60, 40, 222)])
def test_colours_survive(tmp_path, color):
    path = tmp_path / "color.mp4"
    with VideoWriter(path) as writer:
        writer.write(flat(color))
    assert np.abs(next(iter(VideoReader(path)))[1].astype(int) - color).max() <= 6


def test_it_is_a_video_that_any_player_shows(tmp_path):
    path = tmp_path / "v.mp4"
    with VideoWriter(path) as writer:
        writer.write(picture(0))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.pix_fmt == "yuv420p"
        assert stream.codec_context.name == ("h264" if "libx264" in av.codecs_available else "mpeg4")
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # the index stands in front: it plays while it loads


def test_odd_sizes_are_padded(tmp_path):
    path = tmp_path / "odd.mp4"
    with VideoWriter(path) as writer:
        for number in range(3):
            writer.write(picture(number, 47, 63))
    frames = [image for _, image in VideoReader(path)]
    assert [f.shape for f in frames] == [(48, 64, 3)] * 3
    assert np.abs(frames[1][:47, :63].astype(int) - picture(1, 47, 63)).mean() < 8


def test_frames_of_another_size_are_fitted(tmp_path):
    path = tmp_path / "mixed.mp4"
    with VideoWriter(path) as writer:
        writer.write(flat(200))
        writer.write(flat(200, 96, 64))
    second = [image for _, image in VideoReader(path)][1]
    assert second.shape == (48, 64, 3)
    assert second[:, 32].min() > 180 and second[:, :10].max() < 30


def test_stamps_are_kept_and_made_to_rise(tmp_path):
    path = tmp_path / "stamps.mp4"
    with VideoWriter(path, fps=10) as writer:
        for number, seconds in enumerate([0.0, 0.1, 0.15, 0.15, 0.12, 1.0, None]):
            writer.write(picture(number), seconds)
    times = [seconds for seconds, _ in VideoReader(path)]
    assert times == pytest.approx([0, 0.1, 0.15, 0.15, 0.15, 1.0, 1.1], abs=0.001)
    assert all(a < b for a, b in pairwise(times))


def test_a_rate_beyond_all_cameras_is_no_obstacle(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", fps=1e10) as writer:
        for n in range(3):
            writer.write(np.zeros((16, 16, 3), np.uint8), n * 0.1)
    assert len(list(VideoReader(tmp_path / "a.mp4"))) == 3


def test_an_exception_leaves_nothing_behind(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"an older video")
    with pytest.raises(RuntimeError, match="in the middle"):
        with VideoWriter(path) as writer:
            writer.write(picture(0))
            raise RuntimeError("in the middle")
    assert path.read_bytes() == b"an older video"
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


def test_a_video_of_no_frames_is_not_written(tmp_path):
    with VideoWriter(tmp_path / "v.mp4"):
        pass
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_said_at_once(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.m4v"):
        VideoWriter(tmp_path / "drive.gif")
    with pytest.raises(UserError, match="positive frame rate"):
        VideoWriter(tmp_path / "drive.mp4", fps=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the video"):
        VideoWriter(tmp_path / "file" / "drive.mp4")


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        VideoReader(tmp_path / "none.mp4")
    with pytest.raises(UserError, match="no such file"):
        VideoReader(tmp_path)
    for name, data in (("empty.mp4", b""), ("text.mp4", b"hello " * 100), ("noise.avi", bytes(range(256)) * 9)):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(UserError, match=name):
            VideoReader(path)


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(UserError, match="no video stream, only audio"):
        VideoReader(path)


def test_a_video_cut_off_gives_what_there_is_and_says_so(tmp_path):
    path, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    rng = np.random.default_rng(0)
    with VideoWriter(path) as writer:
        for _ in range(60):
            writer.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    data = path.read_bytes()
    cut.write_bytes(data[: len(data) * 2 // 3])
    reader = VideoReader(cut)
    count = sum(1 for _ in reader)
    assert 20 < count < 60
    assert "cut.mp4 breaks off after" in reader.problem


@pytest.mark.parametrize("sound", [0, 1, 6])
def test_a_matroska_file_cut_off_says_so_and_a_whole_one_does_not(tmp_path, sound):
    """Its header has no number of frames; the sound may go on after the last picture."""
    path, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        audio = container.add_stream("pcm_s16le", rate=8000) if sound else None
        for number in range(20):
            image = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
            if audio is not None:
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 800 * sound), np.int16), format="s16", layout="mono")
                frame.sample_rate, frame.pts = 8000, 800 * sound * number
                container.mux(audio.encode(frame))
        container.mux(stream.encode(None))
    reader = VideoReader(path)
    assert len(list(reader)) == 20 and reader.problem == ""
    data = path.read_bytes()
    cut.write_bytes(data[: len(data) * 2 // 5])
    reader = VideoReader(cut)
    count = sum(1 for _ in reader)
    assert 0 < count < 15 or sound > 1
    assert f"cut.mkv breaks off after {count} frames, at " in reader.problem
    assert f" of {2.0 * max(sound, 1)} s" in reader.problem


def test_stills_of_a_matroska_file_are_no_break(tmp_path):
    path = tmp_path / "v.mkv"
    with VideoWriter(path, fps=10) as writer:
        for number, seconds in enumerate([0.0, 0.1, 0.2, 9.0, 20.0]):
            writer.write(picture(number), seconds)
    reader = VideoReader(path)
    assert len(list(reader)) == 5 and reader.problem == ""


def test_a_phones_video_is_turned_upright(tmp_path):
    path, turned = tmp_path / "v.mp4", tmp_path / "turned.mp4"
    image = flat(20)
    image[:24] = 220
    with VideoWriter(path) as writer:
        writer.write(image)
    data = bytearray(path.read_bytes())
    # The track's display matrix (ISO 14496-12, tkhd): a quarter turn in place of the identity.
    one = 1 << 16
    unit = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    quarter = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    at = data.index(unit, data.index(b"tkhd"))
    data[at : at + 36] = quarter
    turned.write_bytes(data)
    _, upright = next(iter(VideoReader(turned)))
    assert upright.shape == (64, 48, 3)
    assert upright[:, 30:].min() > 180 and upright[:, :18].max() < 60  # what was the top is on the right


@pytest.mark.parametrize("suffix", [".3gp", ".mts", ".m2ts", ".flv", ".gif", ".ogv", ".TS"])
def test_a_path_is_taken_for_a_video_by_its_name(tmp_path, suffix):
    with VideoWriter(tmp_path / "v.mp4") as writer:
        writer.write(picture(0))
    path = (tmp_path / "v.mp4").rename(tmp_path / f"v{suffix}")
    assert [item.frame is not None for item in open_source(path)] == [True]
