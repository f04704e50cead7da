"""Where the pictures of a board come from.

A feed that segments takes frames as they come, keeps the newest, and drops what the network has no time for: what is
seen is what a robot would get. Nothing is segmented while nobody watches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from rt_seg_ros.errors import UserError, in_words
from rt_seg_ros.images import Frame, ImageRejected
from rt_seg_ros.log import get_logger
from rt_seg_ros.overlap import prefetch
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.sources import Source, SourceFrame
from rt_seg_ros.web.board import Board
from rt_seg_ros.web.picture import Picture
from rt_seg_ros.working_size import Size

_log = get_logger(__name__)

#: Seconds between two images of a folder, which have no time of their own.
STILL_PERIOD = 0.5
_PROBLEM_SHOWN = 10.0  # seconds for which it is said that a frame could not be read, while others can
_CATCH_UP = 0.5  # seconds by which playing may be late and still make up for it
_LONGEST_PAUSE = 2.0  # a recording's stamps may jump; nobody waits longer for the next frame


def size_in_words(image: Size, network: Size) -> str:
    """Return the sizes (height, width) of an image and of what the network sees of it, for people: width first."""
    words = f"{image[1]}x{image[0]}"
    return words if image == network else f"{words}, network {network[1]}x{network[0]}"


class Feed:
    """Fills a board, and obeys what the page asks for."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def start(self) -> None:
        """Begin; returns at once."""

    def close(self) -> None:
        """End, and let everything go."""

    def choose_model(self, name: str) -> None:
        """Change over to another model; the present one serves until it is ready.

        :raises UserError: where there is no such model
        """
        raise UserError("the model of this source cannot be changed here")

    def choose_camera(self, name: str) -> None:
        """Show another camera.

        :raises UserError: where there is no such camera
        """
        raise UserError("this source has one camera")

    def pause(self, on: bool) -> None:
        """Stop at the present frame, or go on.

        :raises UserError: where the source cannot wait
        """
        raise UserError("this source cannot be paused")

    def restart(self) -> None:
        """Begin the source again.

        :raises UserError: where it has no beginning
        """
        raise UserError("this source cannot be started again")


@dataclass(frozen=True)
class Arrival:
    """A frame and when it came (``time.monotonic()``, seconds); ``again``: it was there before, and is not counted.

    ``read`` gives the frame: one that is dropped is not decoded. ``position`` is its place in its source, from 0; -1
    where it has none.
    """

    read: Callable[[], SourceFrame]
    time: float
    again: bool = False
    position: int = -1


class SegmentingFeed(Feed):
    """Segments the frames that it is handed.

    :param segmenter: the first model, loaded
    :param choices: by the name that the page knows, what to run
    :param chosen: the name of the first of them
    """

    def __init__(self, board: Board, segmenter: Segmenter, choices: dict[str, SegmenterConfig], chosen: str) -> None:
        super().__init__(board)
        self._segmenter = segmenter
        self._choices = choices
        self._chosen = chosen
        self._lock = threading.Condition()
        self._waiting: Arrival | None = None
        self._wanted = chosen
        self._preparing = False
        self._last: SourceFrame | None = None
        self._last_position = -1
        self._problem, self._problem_time = "", 0.0
        self._received = self._rejected = self._processed = self._dropped = 0
        self._closed = threading.Event()
        self._worker = threading.Thread(target=self._work, name="segmentation", daemon=True)
        self._preparation: threading.Thread | None = None
        self._tell_model()

    def start(self) -> None:
        """See :meth:`Feed.start`."""
        self._worker.start()

    def close(self) -> None:
        """See :meth:`Feed.close`; a model that is being loaded is waited for."""
        self._closed.set()
        with self._lock:
            self._lock.notify_all()
            preparation = self._preparation
        if self._worker.is_alive():
            self._worker.join()
        # An interpreter that ends while a runtime compiles in another thread is aborted by it.
        if preparation is not None and preparation.is_alive():
            _log.info("%s is still being loaded, which cannot be broken off", self._wanted)
            preparation.join()

    # --- frames ---------------------------------------------------------------------------------------------------

    def take(self, read: Callable[[], SourceFrame], position: int = -1) -> None:
        """Take a frame in; one that still waits gives way. Called from any thread.

        :param read: gives the frame when its turn comes; may raise :class:`~rt_seg_ros.images.ImageRejected`
        :param position: its place in its source, from 0; -1 where it has none
        """
        with self._lock:
            self._received += 1
            self._put(Arrival(read, time.monotonic(), position=position))

    def _reject(self, arrival: Arrival, problem: str) -> None:
        if not arrival.again:
            with self._lock:
                self._rejected += 1
        self._problem, self._problem_time = problem, time.monotonic()
        self.board.update(message=problem)

    def _put(self, arrival: Arrival) -> None:
        if self._waiting is not None and not self._waiting.again:
            self._dropped += 1
        self._waiting = arrival
        self._lock.notify_all()

    def _taken(self) -> Arrival | None:
        with self._lock:
            while self._waiting is None and not self._closed.is_set():
                self._lock.wait()
            arrival, self._waiting = self._waiting, None
            return None if self._closed.is_set() else arrival

    def _work(self) -> None:
        while (arrival := self._taken()) is not None:
            try:
                item = arrival.read()
                if item.frame is None:
                    self._reject(arrival, item.problem)
                else:
                    self._segment(arrival, item, item.frame)
            except ImageRejected as error:
                self._reject(arrival, str(error))
            except Exception as error:  # one frame is lost, not the view
                _log.debug("a frame could not be segmented", exc_info=True)
                self._reject(arrival, f"a frame could not be segmented: {type(error).__name__}: {error}")
            del arrival

    def _segment(self, arrival: Arrival, item: SourceFrame, frame: Frame) -> None:
        with self._lock:
            segmenter = self._segmenter
        if segmenter.warm_up_for(frame):
            # The first run at a size may take seconds; it is no frame's latency.
            arrival = replace(arrival, time=time.monotonic())
        begin = time.monotonic()
        result = segmenter.segment(frame)
        end = time.monotonic()
        self._last, self._last_position = item, arrival.position
        space = self.board.use_label_space(segmenter.label_space)
        self.board.update(size=size_in_words((frame.height, frame.width), result.working_size))
        if self._problem and end - self._problem_time > _PROBLEM_SHOWN:
            if self.board.state.message == self._problem:
                self.board.update(message="")
            self._problem = ""
        if not arrival.again:
            with self._lock:
                self._processed += 1
                counts = self._received, self._processed, self._dropped, self._rejected
            network = result.timings.get("network", 0.0)
            self.board.record((end - arrival.time) * 1e3, network, (begin - arrival.time) * 1e3, counts)
        self.board.show(Picture(frame, result.labels, item.name, item.stamp_ns, space, arrival.position))

    # --- models ---------------------------------------------------------------------------------------------------

    def choose_model(self, name: str) -> None:
        """See :meth:`Feed.choose_model`."""
        if name not in self._choices:
            raise UserError(f"no model '{name}'; there are: {', '.join(self._choices)}")
        with self._lock:
            self._wanted = name
            if self._closed.is_set() or (name == self._chosen and not self._preparing):
                return
            self.board.switch(name)
            if self._preparing:
                return
            self._preparing = True
            self._preparation = threading.Thread(target=self._prepare, name="preparation", daemon=True)
            self._preparation.start()

    def _prepare(self) -> None:
        """Load what is wanted, and what is wanted by then, until that is what runs."""
        message = ""
        while not self._closed.is_set():
            with self._lock:
                name = self._wanted
                if name == self._chosen:
                    self._preparing = False
                    self.board.switch("", message)
                    break
            message = ""
            try:
                segmenter = self._loaded(name)
            except Exception as error:
                message = in_words(error)
                with self._lock:
                    if self._wanted == name:  # nothing else was asked for meanwhile
                        self._wanted = self._chosen
                continue
            with self._lock:
                if self._wanted != name:
                    continue
                self._segmenter, self._chosen = segmenter, name
            self._tell_model()
        last = self._last
        if last is not None and self.board.state.status in ("paused", "ended"):
            self._show_again(last)

    def _loaded(self, name: str) -> Segmenter:
        segmenter = Segmenter(self._choices[name])
        last = self._last
        if last is not None and last.frame is not None:
            segmenter.warm_up_for(last.frame)
        return segmenter

    def _show_again(self, item: SourceFrame) -> None:
        with self._lock:
            if self._waiting is None:
                self._put(Arrival(lambda: item, time.monotonic(), True, self._last_position))

    def _tell_model(self) -> None:
        segmenter = self._segmenter
        self.board.use_label_space(segmenter.label_space)
        self.board.update(
            model=self._chosen,
            model_details=f"{segmenter.card.name}, {segmenter.backend_name} {segmenter.device} {segmenter.precision}",
        )


class FileFeed(SegmentingFeed):
    """Plays a source in its own time, and segments it.

    :param rate: times its own speed
    :param loop: begin again at the end
    """

    def __init__(
        self,
        board: Board,
        segmenter: Segmenter,
        choices: dict[str, SegmenterConfig],
        chosen: str,
        source: Source,
        rate: float = 1.0,
        loop: bool = False,
    ) -> None:
        if not rate > 0:
            raise UserError(f"rate is {rate}; expected a number above 0")
        super().__init__(board, segmenter, choices, chosen)
        self._source = source
        self._rate = rate
        self._loop = loop and source.kind != "image"
        self._again = threading.Event()
        self._paused = False
        self._moved = threading.Condition()
        self._player = threading.Thread(target=self._play, name="player", daemon=True)
        board.update(frames=source.total or 0, can=["model", *(["restart", "pause"] if source.kind != "image" else [])])

    def start(self) -> None:
        """See :meth:`Feed.start`."""
        super().start()
        self._player.start()

    def close(self) -> None:
        """See :meth:`Feed.close`."""
        self._closed.set()
        with self._moved:
            self._moved.notify_all()
        self.board.close()
        if self._player.is_alive():
            self._player.join()
        super().close()

    def pause(self, on: bool) -> None:
        """See :meth:`Feed.pause`."""
        with self._moved:
            if self.board.state.status not in ("running", "paused"):
                return
            self._paused = on
            self.board.update(status="paused" if on else "running")
            self._moved.notify_all()

    def restart(self) -> None:
        """See :meth:`Feed.restart`."""
        with self._moved:
            self._again.set()
            self._paused = False
            self.board.update(status="running", message="")
            self._moved.notify_all()

    def _play(self) -> None:
        while not self._closed.is_set():
            with self._moved:  # it may have been paused while the former round was put away
                self._again.clear()
                self.board.update(status="paused" if self._paused else "running", message="")
            try:
                played = self._play_once()
            except Exception as error:
                _log.debug("playing ended", exc_info=True)
                self.board.update(status="failed", message=in_words(error))
            else:
                if self._loop and played:
                    # The first frame of another round follows the last of this one at the usual distance.
                    self._wait_until(time.monotonic() + self._usual_distance() / self._rate)
                    continue
                if self._again.is_set():
                    continue
                self.board.update(status="ended")
            with self._moved:
                while not (self._again.is_set() or self._closed.is_set()):
                    self._moved.wait()

    def _play_once(self) -> bool:
        """Play from the beginning to the end; return whether there was a frame."""
        due, last_stamp, played = time.monotonic(), 0, False
        with closing(prefetch(self._source)) as items:
            for position, item in enumerate(items):
                if played:
                    due += self._distance(last_stamp, item.stamp_ns) / self._rate
                last_stamp = item.stamp_ns
                shown = self._wait_until(due)
                if shown is None:
                    break
                # Frames that are long due are not made up for: time begins anew where the reading is slow.
                due = max(shown, time.monotonic() - _CATCH_UP)
                played = played or item.frame is not None
                self.take(partial(_given, item), position)
        return played

    def _distance(self, former: int, stamp: int) -> float:
        """Return the seconds between two frames by their stamps (ns), where these make sense."""
        if stamp == 0 and former == 0:
            return STILL_PERIOD
        seconds = (stamp - former) / 1e9
        return seconds if 0 <= seconds <= _LONGEST_PAUSE else self._usual_distance()

    def _usual_distance(self) -> float:
        return 1.0 / self._source.fps if self._source.fps > 0 else STILL_PERIOD

    def _wait_until(self, due: float) -> float | None:
        """Wait until a frame is due and somebody watches.

        :param due: by ``time.monotonic()``
        :return: when it was due, later where it was held; None where it is not to be shown any more
        """
        while not (self._closed.is_set() or self._again.is_set()):
            if not self.board.watched:
                self.board.wait_watched(0.5)
                due = time.monotonic()
                continue
            with self._moved:
                if self._paused:
                    self._moved.wait(0.5)
                    due = time.monotonic()
                    continue
                left = due - time.monotonic()
                if left <= 0:
                    return due
                self._moved.wait(min(left, 0.5))
        return None


def _given(item: SourceFrame) -> SourceFrame:
    return item


def model_choices(config: SegmenterConfig, names: list[str]) -> dict[str, SegmenterConfig]:
    """Return what to run for each of these models: as ``config`` says in all else, with their own weights.

    :param config: of the first model, which keeps its name and its weights
    """
    others = (name for name in names if name != config.model)
    return {config.model: config, **{name: replace(config, model=name, weights="", label_space="") for name in others}}
