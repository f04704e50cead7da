"""Video files in and out, through PyAV (FFmpeg).

What is written plays everywhere: H.264 in yuv420p, constant quality, the index in front. Where the FFmpeg at hand has
no x264, MPEG-4 part 2 takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.errors import UserError
from rt_seg_ros.files import remove_leftovers
from rt_seg_ros.log import get_logger

Image = NDArray[np.uint8]

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".3gp", ".flv"}
    | {".gif", ".ogv"}
)
"""Suffixes by which a path is taken for a video."""
# No .avi: it has one fixed frame rate, and a drive's stamps do not.
_CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_MOST_FPS = 1000.0  # that encoders are told: each frame has its own time all the same
_CLOCK = 60_000  # ticks per second: whole numbers for 24, 25, 30, 30000/1001, 50, 60; MPEG-4 allows up to 65535
_RGB_MATRIX_BT601 = 5

_log = get_logger(__name__)


class VideoReader:
    """A video file, frame by frame.

    Iterating gives ``(seconds, image)``: the time of the frame from the start of the video and the image, ``HxWx3``
    BGR, turned upright where a phone has said how it was held. It can be iterated more than once.

    A file that breaks off or is damaged in the middle gives the frames before that, and ``problem`` then says what
    was wrong.

    :raises UserError: if there is no such file or no video in it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.problem = ""
        """What went wrong while frames were read, empty if nothing did."""
        with self._open() as container:
            stream = container.streams.video[0]
            self.fps = float(stream.average_rate or stream.guessed_rate or 25)
            """Frames per second, on average."""
            self.frame_count = int(stream.frames)
            """Number of frames by the file's header, estimated where it has none; 0 if not even that is possible."""
            if not self.frame_count and container.duration:
                self.frame_count = round(container.duration / av.time_base * self.fps)

    def __iter__(self) -> Iterator[tuple[float, Image]]:
        self.problem = ""
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            start: float | None = None
            time = 0.0
            count = 0
            frames = container.decode(stream)
            while True:
                try:
                    frame = next(frames)
                except StopIteration:
                    break
                except av.FFmpegError as error:
                    self.problem = f"{self.path} breaks off after {count} frames: {_reason(error)}"
                    break
                time = frame.time if frame.time is not None else count / self.fps
                if start is None:
                    start = time
                count += 1
                yield time - start, _upright(frame)
            promised = int(stream.frames)
            seconds = container.duration / av.time_base if _tells_seconds(container) else 0.0
        if count == 0 and not self.problem:
            self.problem = f"{self.path} holds no frame that can be decoded"
        # Edit lists leave out a few frames at the ends of whole videos; a torn file lacks more.
        if promised - count > max(5, promised // 20) and not self.problem:
            self.problem = f"{self.path} breaks off after {count} of {promised} frames"
        spare = max(5 / self.fps, seconds / 20)
        # A video may end before its sound does.
        if not promised and seconds - time > spare and seconds - self._reach() > spare and not self.problem:
            self.problem = f"{self.path} breaks off after {count} frames, at {time:.1f} of {seconds:.1f} s"

    def _reach(self) -> float:
        """Return the time at which the last that is stored ends, be it picture or sound."""
        reach = 0.0
        with self._open() as container:
            try:
                for packet in container.demux():
                    if packet.pts is not None:
                        reach = max(reach, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            except av.FFmpegError as error:
                _log.debug("looking for the end of %s: %s", self.path, error)
        return reach

    def _open(self) -> Any:
        if not self.path.is_file():
            raise UserError(f"no video at {self.path}: there is no such file")
        try:
            container = av.open(str(self.path), metadata_errors="ignore")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise UserError(f"{self.path} cannot be read as a video: {_reason(error)}") from error
        if not container.streams.video:
            kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing that is known"
            container.close()
            raise UserError(f"{self.path} holds no video stream, only {kinds}")
        return container


class VideoWriter:
    """Writes a video. The file appears under its name when it is complete, never before.

    Use it as a context manager; left by an exception it leaves nothing behind. A file that is there is replaced.

    :param path: ``.mp4``, ``.m4v``, ``.mov`` or ``.mkv``.
    :param fps: frames per second, used for frames that come without a time.
    :param quality: constant rate factor of x264: 18 is nearly lossless, 28 is coarse.
    :param fast: take a quarter of the time, for a file half as large again: beside a network every core counts.
    :raises UserError: if the suffix is not one of these, or the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float = 10.0, quality: int = 20, fast: bool = False) -> None:
        self.path = Path(path)
        self.fps = fps
        self.quality = quality
        self.fast = fast
        self.frames = 0
        """Number of frames written."""
        container = _CONTAINERS.get(self.path.suffix.lower())
        if container is None:
            raise UserError(
                f"cannot write a video named {self.path.name}: the name must end in {', '.join(sorted(_CONTAINERS))}"
            )
        if not fps > 0:
            raise UserError(f"a video needs a positive frame rate, not {fps}")
        self._aside = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.path.parent, self.path.name)
            options = {"movflags": "+faststart"} if container in ("mp4", "mov") else {}
            self._container = av.open(str(self._aside), "w", format=container, options=options)
        except (av.FFmpegError, OSError) as error:
            raise UserError(f"cannot write the video {self.path}: {_reason(error)}") from error
        self._stream: Any = None
        self._size = (0, 0)
        self._last_tick = -1
        self._closed = False

    def write(self, image: Image, seconds: float | None = None) -> None:
        """Add a frame.

        :param image: ``HxWx3`` BGR. Later frames of another size are fitted into that of the first one.
        :param seconds: time from the start of the video; by default one frame's time after the previous frame.
        :raises UserError: if the file cannot be written (a full disk, say).
        """
        if self._stream is None:
            self._start(image.shape[0], image.shape[1])
        if image.shape[:2] != self._size:
            image = _fitted(image, self._size)
        height, width = self._size
        if height % 2 or width % 2:  # yuv420p holds even sizes only
            image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), format="yuv420p")
        frame.colorspace = _RGB_MATRIX_BT601
        # Times must rise: two frames with one stamp are put a tick apart.
        tick = self._last_tick + round(_CLOCK / self.fps) if seconds is None else round(seconds * _CLOCK)
        if self._last_tick < 0 and seconds is None:
            tick = 0
        self._last_tick = max(tick, self._last_tick + 1)
        frame.pts = self._last_tick
        frame.time_base = Fraction(1, _CLOCK)
        self._mux(frame)
        self.frames += 1

    def close(self) -> None:
        """Finish the file and move it into place; a video without a frame is not written at all."""
        if self._closed:
            return
        if self._stream is None:
            self.discard()
            return
        try:
            self._mux(None)
            self._container.close()
            os.replace(self._aside, self.path)
        except (av.FFmpegError, OSError) as error:
            raise UserError(f"cannot write the video {self.path}: {_reason(error)}") from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Stop and leave nothing behind."""
        if not self._closed:
            self._closed = True
            try:
                self._container.close()
            except (av.FFmpegError, OSError) as error:
                _log.debug("closing %s: %s", self._aside, error)
        self._aside.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _start(self, height: int, width: int) -> None:
        rate = Fraction(min(self.fps, _MOST_FPS)).limit_denominator(1001)
        codec = _codec()
        if codec == "libx264":
            options = {"crf": str(self.quality), "preset": "ultrafast" if self.fast else "veryfast"}
        else:
            options = {"flags": "+qscale", "global_quality": str(4 * 118)}
        try:
            stream: Any = self._container.add_stream(codec, rate=rate, options=options)
        except (av.FFmpegError, ValueError) as error:
            raise UserError(f"cannot write the video {self.path}: {_reason(error)}") from error
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, _CLOCK)
        stream.codec_context.colorspace = _RGB_MATRIX_BT601
        self._stream, self._size = stream, (height, width)

    def _mux(self, frame: Any) -> None:
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (av.FFmpegError, OSError) as error:
            self.discard()
            raise UserError(f"cannot write the video {self.path}: {_reason(error)}") from error


def _tells_seconds(container: Any) -> bool:
    """Whether a container's header has its duration in place of the number of frames; elsewhere it is a guess."""
    return "matroska" in container.format.name and bool(container.duration)


def _codec() -> str:
    """Name of the best encoder that is there."""
    for name in ("libx264", "mpeg4"):
        try:
            av.Codec(name, "w")
            return name
        except (av.FFmpegError, ValueError):
            continue
    raise UserError("the FFmpeg of this machine can write neither H.264 nor MPEG-4: install the 'av' wheel from PyPI")


def _upright(frame: Any) -> Image:
    image: Image = frame.to_ndarray(format="bgr24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _fitted(image: Image, size: tuple[int, int]) -> Image:
    """Scale without distortion and centre on black."""
    height, width = size
    scale = min(height / image.shape[0], width / image.shape[1])
    rows, columns = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    result = np.zeros((height, width, 3), np.uint8)
    y, x = (height - rows) // 2, (width - columns) // 2
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    result[y : y + rows, x : x + columns] = cv2.resize(image, (columns, rows), interpolation=method)
    return result


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
