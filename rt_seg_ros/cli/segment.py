"""``rt-seg segment``: labels, pictures, videos and recordings of what is already on the disk."""

from __future__ import annotations

import argparse
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.cli.options import add_model_options, segmenter_config
from rt_seg_ros.cli.progress import progress
from rt_seg_ros.drawing import Painter, colourise
from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.timeline import Timeline
from rt_seg_ros.files import check_apart, check_folder, write_bytes
from rt_seg_ros.images import Frame, ImageRejected
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.overlap import Background, prefetch
from rt_seg_ros.pipeline import Segmentation, Segmenter
from rt_seg_ros.sources import RESULT_ENDING, RESULT_SUFFIXES, Source, SourceFrame, open_source, stem_of
from rt_seg_ros.video import VideoWriter

SUMMARY = "segment an image, a folder of images, a video or a recorded drive"
EPILOG = """\
what comes out, under --out:
  image    NAME_label.png (class ids, 255 = unlabelled), NAME_color.png, NAME_overlay.jpg
  folder   label/, color/ and overlay/, with the folder's own file names
  video    NAME_overlay.mp4; with --labels and --color also those folders, numbered by frame
  rosbag2  the same as for a video, at the recording's stamps; with --bag also a rosbag2 of the node's topics:
           label, label_info, overlay, class_masks (and confidence) under /segmentation, with the source's stamps
           and frame ids

examples:
  rt-seg segment photo.jpg
  rt-seg segment photos/ --out result --no-color
  rt-seg segment drive.mp4 --model csrnet_light --downsampling-ratio 0.5
  rt-seg segment drive.mcap --topic /camera/image_raw --bag result.mcap
  rt-seg segment photo.jpg --confidence --confidence-threshold 0.6

exit status: 0 all frames were segmented; 1 some could not be read and were skipped; 2 nothing could be done
to score labels against ground truth: rt-seg evaluate
"""

Image = NDArray[np.uint8]
Picture = Callable[[Image, Segmentation], "Image | None"]

#: Frames for which a class stays in a video's legend after it was last seen.
_LINGER = 15
_MESSAGES_SHOWN = 10
_JPEG_QUALITY = 95
_JPEG_LARGEST = 65500  # pixels a side, by libjpeg
#: What can be written, by its name in file names, and the option that asks for it.
_KINDS = {"label": "labels", "color": "color", "overlay": "overlay", "confidence": "confidence"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("source", type=Path, help="image, folder of images, video, or rosbag2 (folder, .mcap, .db3)")
    parser.add_argument("--topic", default="", help="image topic of a rosbag2, where it has more than one")
    output = parser.add_argument_group("what to write")
    output.add_argument(
        "--out", type=Path, metavar="DIR",
        help="folder for the results (default: SOURCE's name and _segmented, never inside SOURCE)",
    )  # fmt: skip
    both = argparse.BooleanOptionalAction
    output.add_argument("--labels", action=both, default=None, help="label images: PNG of class ids")
    output.add_argument("--color", action=both, default=None, help="label images in the classes' colours")
    output.add_argument("--overlay", action=both, default=True, help="colours over the image, with a legend")
    output.add_argument("--confidence", action=both, default=False, help="probability of each pixel's label, 0 to 255")
    output.add_argument("--bag", type=Path, metavar="OUT.mcap", help="of a rosbag2: the node's topics as a rosbag2")
    output.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    output.add_argument(
        "--overlay-alpha", type=float, default=0.5, help="opacity of the overlay, 0 to 1 (default: %(default)s)"
    )
    output.add_argument("--legend", action=both, default=True, help="name the classes in the overlay")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Segment the source; the exit status tells whether all of it could be read."""
    if not 0 <= args.overlay_alpha <= 1:
        raise UserError(f"--overlay-alpha is {args.overlay_alpha}; it must lie between 0 and 1")
    out = args.out if args.out is not None else _default_out(args.source)
    source = open_source(args.source, args.topic, leave_out=[out / kind for kind in _KINDS])
    segmenter = Segmenter(segmenter_config(args))  # refused before a folder is made
    skipped: list[str] = []
    clock = _Clock(warm_up=source.total != 1)
    with ExitStack() as stack:
        stack.callback(_remove_empty, [folder for folder in (out, *out.parents) if not folder.exists()])
        _check_outputs(args, source, out)
        if source.left_out:
            print(f"left out: {source.left_out} images that an earlier rt-seg segment wrote", file=sys.stderr)
        sinks = _open_sinks(args, source, out, segmenter.label_space, stack)
        encoder = stack.enter_context(Background(workers=1, depth=4))
        for item in progress(prefetch(source), f"segment {source.path.name}", source.total):
            problem = item.problem
            if item.frame is not None:
                try:
                    _check_size(args, source, item.frame)
                    result = clock.run(segmenter, item, args.confidence)
                    image = item.frame.bgr()
                    for sink in sinks:
                        encoder.submit(sink.take, item, image, result)
                except ImageRejected as error:
                    problem = f"{item.name}: {error}"
            if problem:
                skipped.append(problem)
                if len(skipped) <= _MESSAGES_SHOWN:
                    print(f"skipped: {problem}", file=sys.stderr)
    if len(skipped) > _MESSAGES_SHOWN:
        print(f"skipped: {len(skipped) - _MESSAGES_SHOWN} more", file=sys.stderr)
    if not clock.frames:
        raise UserError(f"not one frame of {source.path} could be segmented")
    print(clock.summary(segmenter))
    for sink in sinks:
        print(sink.made())
    if skipped:
        print(f"skipped: {len(skipped)} that could not be read", file=sys.stderr)
    return 1 if skipped else 0


def _default_out(source: Path) -> Path:
    """Where results go by default: a folder here, or beside the source where "here" is in it."""
    source = source.resolve()
    out = Path(f"{stem_of(source)}{RESULT_ENDING}")
    here = Path.cwd()
    return source.parent / out if source == here or source in here.parents else out


def _check_outputs(args: argparse.Namespace, source: Source, out: Path) -> None:
    """Refuse what cannot be written, or would be written over something, before any work is done."""
    if args.bag is not None and source.kind != "drive":
        raise UserError(f"--bag needs a rosbag2 for its stamps; {source.path} is a source of kind '{source.kind}'")
    wanted = [kind for kind, option in _KINDS.items() if _wants(args, source, option)]
    if not wanted and args.bag is None:
        raise UserError("nothing to write: leave one of --labels, --color, --overlay, --confidence or --bag")
    targets = [_target(source, out, kind) for kind in wanted]
    if args.bag is not None:
        check_apart(args.bag, [source.path])
        targets.append(args.bag)
    for target in targets:
        if source.path.exists() and target.exists() and target.samefile(source.path):
            raise UserError(f"{target} is the source; choose another --out")
        if not args.overwrite and target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise UserError(f"{target} exists: add --overwrite to replace it, or choose another name")
    check_folder(out)


def _remove_empty(made: list[Path]) -> None:
    """Remove the folders that were made for results and got none, the innermost first."""
    for folder in made:
        with suppress(OSError):
            folder.rmdir()


def _check_size(args: argparse.Namespace, source: Source, frame: Frame) -> None:
    """Refuse an image whose overlay no JPEG holds; one such is no reason to end a folder's run."""
    if args.overlay and source.kind in ("image", "folder") and max(frame.height, frame.width) > _JPEG_LARGEST:
        raise ImageRejected(
            "too_large",
            f"{frame.width}x{frame.height} pixels are more than the {_JPEG_LARGEST} a side that an overlay can have "
            "(--no-overlay: labels alone)",
        )


def _target(source: Source, out: Path, kind: str) -> Path:
    """Where the results of one kind go: a folder of images, or a file."""
    if kind == "overlay" and source.kind in ("video", "drive"):
        return out / f"{source.stem}_overlay.mp4"
    if source.kind == "image":
        return out / f"{source.path.stem}_{kind}{RESULT_SUFFIXES[kind]}"
    return out / kind


def _wants(args: argparse.Namespace, source: Source, option: str) -> bool:
    """Whether a kind of image is wanted; labels and colours come of images by default, of the rest on demand."""
    chosen = getattr(args, option)
    return bool(chosen) if chosen is not None else source.kind in ("image", "folder")


class _Clock:
    """How many frames, and how fast.

    :param warm_up: run the network before a frame of a new size, so that this costs what the others do
    """

    def __init__(self, warm_up: bool) -> None:
        self.frames = 0
        self._warm_up = warm_up
        self._pipeline_ms = 0.0
        self._start = 0.0

    def run(self, segmenter: Segmenter, item: SourceFrame, confidence: bool) -> Segmentation:
        assert item.frame is not None
        asked = time.perf_counter()
        if self._warm_up:
            segmenter.warm_up_for(item.frame, confidence)
        begin = time.perf_counter()
        self._start = self._start + begin - asked if self.frames else begin
        result = segmenter.segment(item.frame, confidence)
        self.frames += 1
        self._pipeline_ms += sum(result.timings.values())
        return result

    def summary(self, segmenter: Segmenter) -> str:
        seconds = max(time.perf_counter() - self._start, 1e-9)
        frames = "1 frame" if self.frames == 1 else f"{self.frames} frames"
        rate = f"{self.frames / seconds:.1f} a second" if self._warm_up else "the first run, which is the slowest"
        each = f"{self._pipeline_ms / self.frames:.1f} ms{' a frame' if self._warm_up else ''}"
        return (
            f"{frames} in {seconds:.1f} s, {rate}; {segmenter.card.name}: {each} on {segmenter.backend_name} "
            f"{segmenter.device} {segmenter.precision}"
        )


# --- Where results go -----------------------------------------------------------------------------------------------


class _Sink(ABC):
    """Takes the results, one after the other, on the encoder's thread."""

    @abstractmethod
    def take(self, item: SourceFrame, image: Image, result: Segmentation) -> None:
        """Write one frame's result."""

    @abstractmethod
    def made(self) -> str:
        """Tell where it is."""


def _open_sinks(
    args: argparse.Namespace, source: Source, out: Path, space: LabelSpace, stack: ExitStack
) -> list[_Sink]:
    still = source.kind in ("image", "folder")
    painter = Painter(space, args.overlay_alpha, args.legend, linger=0 if still else _LINGER)
    drawn: list[Any] = [None, None]

    def overlay(image: Image, result: Segmentation) -> Image:
        if drawn[0] is not result:  # a video and a bag show the same one
            drawn[:] = result, painter.overlay(image, result.labels)
        return drawn[1]  # type: ignore[no-any-return]

    pictures: dict[str, Picture] = {
        "label": lambda image, result: result.labels,
        "color": lambda image, result: colourise(result.labels, space),
        "overlay": overlay,
        "confidence": lambda image, result: result.confidence,
    }
    sinks: list[_Sink] = []
    for kind, option in _KINDS.items():
        if not _wants(args, source, option):
            continue
        target = _target(source, out, kind)
        if target.suffix == ".mp4":
            sinks.append(_Video(target, source, pictures[kind], stack))
        else:
            sinks.append(_Files(target, kind, pictures[kind], one_file=source.kind == "image"))
    if args.bag is not None:
        shown = pictures["overlay"] if args.overlay else None
        sinks.append(_Bag(args.bag, args.overwrite, shown, space, args.confidence_threshold, stack))
    return sinks


class _Files(_Sink):
    """Images of one kind: a folder of them, or a single one."""

    def __init__(self, target: Path, kind: str, picture: Picture, one_file: bool) -> None:
        self._target, self._kind, self._picture, self._one_file = target, kind, picture, one_file
        self._written: set[Path] = set()

    def take(self, item: SourceFrame, image: Image, result: Segmentation) -> None:
        picture = self._picture(image, result)
        assert picture is not None
        path = self._target if self._one_file else self._target / f"{item.name}{RESULT_SUFFIXES[self._kind]}"
        _write_image(path, picture)
        self._written.add(path)

    def made(self) -> str:
        if self._one_file:
            return f"{self._kind}: {self._target}"
        images = f"{len(self._written)} images"
        there = self._target.rglob(f"*{RESULT_SUFFIXES[self._kind]}")
        if others := sum(path not in self._written for path in there):
            images += f", beside {others} that were there before"
        return f"{self._kind}: {self._target} ({images})"


class _Video(_Sink):
    """Pictures as a video, at the source's own times as far as they make sense."""

    def __init__(self, path: Path, source: Source, picture: Picture, stack: ExitStack) -> None:
        self._writer = stack.enter_context(VideoWriter(path, fps=source.fps or 10.0))
        self._picture = picture
        # A video's own times rise, and a picture of one may stand for minutes.
        self._timeline = Timeline(source.fps) if source.kind == "drive" else None
        self._first: int | None = None

    def take(self, item: SourceFrame, image: Image, result: Segmentation) -> None:
        picture = self._picture(image, result)
        assert picture is not None
        if self._first is None:
            self._first = item.stamp_ns
        timeline = self._timeline
        if timeline is not None:
            seconds = timeline.seconds(item.stamp_ns, item.recorded_ns)
        else:
            seconds = max(0, item.stamp_ns - self._first) / 1e9
        self._writer.write(picture, seconds)

    def made(self) -> str:
        return f"overlay: {self._writer.path} ({self._writer.frames} frames)"


class _Bag(_Sink):
    """What the node would publish, as a rosbag2 with the source's stamps and frame ids."""

    def __init__(
        self,
        path: Path,
        overwrite: bool,
        overlay: Picture | None,
        space: LabelSpace,
        threshold: float,
        stack: ExitStack,
    ) -> None:
        from rt_seg_ros.bags import BagWriter
        from rt_seg_ros.bags.results import ResultTopics

        self._writer = stack.enter_context(BagWriter(path, overwrite=overwrite))
        self._topics = ResultTopics(self._writer, space, threshold=threshold)
        self._overlay = overlay

    def take(self, item: SourceFrame, image: Image, result: Segmentation) -> None:
        overlay = self._overlay(image, result) if self._overlay is not None else None
        self._topics.add(
            item.stamp_ns, item.frame_id, result.labels, overlay, result.confidence, recorded_ns=item.recorded_ns
        )

    def made(self) -> str:
        return f"recording: {self._writer.path} ({self._writer.count} messages)"


def _write_image(path: Path, picture: Image) -> None:
    """Write an image as it befits its ending.

    :raises UserError: if its format or the disk does not take it.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if path.suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    try:
        done, encoded = cv2.imencode(path.suffix, picture, options)
    except cv2.error:  # so OpenCV 4.5, of more than 65500 pixels a side
        done = False
    if not done:
        raise UserError(f"{path} cannot be written: OpenCV cannot encode {picture.shape[1]}x{picture.shape[0]} pixels")
    write_bytes(path, encoded.tobytes(), wait=False)  # there are many
