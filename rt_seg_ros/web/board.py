"""What the page shows, as of now: the newest picture, the state of the source, and the last minute in figures.

Feeds write it, browsers read it; neither waits for the other.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.web.picture import Picture

#: Seconds without a question from any browser after which nobody is taken to watch.
ATTENTION = 5.0
_SAMPLES = 2400  # the graphs' minute at 40 frames a second


class Sample(NamedTuple):
    """What one frame cost, and how many there have been.

    ``time``: seconds, by a clock of the board's own; ``total``, ``network`` and ``wait``: milliseconds from arrival
    to labels, in the network, and until the network was free; then frames since the start; ``age``: milliseconds from
    the image's stamp to its labels, None where stamps are not of this time.
    """

    time: float
    total: float
    network: float
    wait: float
    received: int
    processed: int
    dropped: int
    rejected: int
    age: float | None = None


@dataclass(frozen=True)
class Seen:
    """How far a browser has come: the run, and the last picture, state and sample that it has."""

    run: str = ""
    picture: int = 0
    state: int = 0
    sample: int = 0


@dataclass(frozen=True)
class Update:
    """What a browser has not seen: ``state`` and ``picture`` are None where there is nothing new."""

    seen: Seen
    now: float
    state: dict[str, Any] | None
    samples: list[Sample]
    picture: Picture | None


@dataclass
class State:
    """What the page says beside the picture.

    ``status``: ``waiting``, ``running``, ``paused``, ``ended`` or ``failed``; ``message`` says more, empty where there
    is nothing to say. ``model`` is what segments now, ``switching`` what is being prepared. ``classes`` are those of
    label space number ``space``. ``can`` are the commands the source obeys. ``cameras``: names to choose from.
    """

    source: str
    kind: str = ""
    status: str = "waiting"
    message: str = ""
    model: str = ""
    model_details: str = ""
    models: list[dict[str, str]] = field(default_factory=list)
    switching: str = ""
    space: int = 0
    space_name: str = ""
    classes: list[dict[str, Any]] = field(default_factory=list)
    can: list[str] = field(default_factory=list)
    cameras: list[str] = field(default_factory=list)
    camera: str = ""
    frames: int = 0
    size: str = ""


class Board:
    """The newest picture and state, for any number of readers."""

    def __init__(self, state: State) -> None:
        self._changed = threading.Condition()
        self._run = secrets.token_hex(4)
        self._start = time.monotonic()
        self._state = state
        self._state_number = 1
        self._picture: Picture | None = None
        self._picture_number = 0
        self._samples: deque[Sample] = deque(maxlen=_SAMPLES)
        self._sample_number = 0
        self._asked = float("-inf")
        self._closed = False

    # --- for feeds ------------------------------------------------------------------------------------------------

    def update(self, **fields: Any) -> None:
        """Change fields of the :class:`State`; nothing happens where they are so already."""
        with self._changed:
            changed = {name: value for name, value in fields.items() if getattr(self._state, name) != value}
            for name, value in changed.items():
                setattr(self._state, name, value)
            if changed:
                self._state_number += 1
                self._changed.notify_all()

    def switch(self, model: str, failure: str = "") -> None:
        """Say which model is being prepared, empty: none; and why the last was not to be had.

        Why nothing comes stays said where there is no such failure: who said it does not say it again.
        """
        with self._changed:
            stays = self._state.message if self._state.status in ("waiting", "failed") else ""
            self.update(switching=model, message=failure or stays)

    def use_space(self, name: str, classes: Iterable[tuple[int, str, tuple[int, int, int]]]) -> int:
        """Name the classes of the pictures to come.

        :param classes: id, name and RGB colour of each
        :return: the number that those pictures bear as ``space``
        """
        listed = [{"id": i, "name": label, "color": list(color)} for i, label, color in classes]
        with self._changed:
            if listed != self._state.classes or name != self._state.space_name:
                self.update(space=self._state.space + 1, space_name=name, classes=listed)
            return self._state.space

    def use_label_space(self, space: LabelSpace) -> int:
        """Do as :meth:`use_space` with the classes of a label space."""
        return self.use_space(space.name, [(c.id, c.name, c.color) for c in space.classes])

    def show(self, picture: Picture) -> None:
        """Replace the picture."""
        with self._changed:
            self._picture = picture
            self._picture_number += 1
            self._changed.notify_all()

    def record(
        self,
        total: float,
        network: float,
        wait: float,
        counts: tuple[int, int, int, int],
        age: float | None = None,
    ) -> None:
        """Add a :class:`Sample`; it travels with the next picture or state.

        :param counts: frames received, processed, dropped, rejected
        """
        with self._changed:
            now = round(time.monotonic() - self._start, 3)
            self._samples.append(Sample(now, round(total, 2), round(network, 2), round(wait, 2), *counts, age))
            self._sample_number += 1

    @property
    def state(self) -> State:
        """The state as it is; change it by :meth:`update`."""
        return self._state

    @property
    def watched(self) -> bool:
        """Whether a browser has asked lately."""
        return time.monotonic() - self._asked < ATTENTION

    def wait_watched(self, timeout: float) -> bool:
        """Wait until somebody watches, at most so many seconds; return whether somebody does."""
        end = time.monotonic() + timeout
        with self._changed:
            while not self.watched and not self._closed:
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            return not self._closed

    # --- for browsers ---------------------------------------------------------------------------------------------

    def next(self, seen: Seen, timeout: float) -> Update:
        """Wait for something that a browser has not seen.

        :param timeout: seconds, after which an update without picture and state comes
        """
        if seen.run != self._run:
            seen = Seen(self._run)
        end = time.monotonic() + timeout
        with self._changed:
            if not self.watched:
                self._asked = time.monotonic()
                self._changed.notify_all()
            while self._picture_number <= seen.picture and self._state_number <= seen.state and not self._closed:
                self._asked = time.monotonic()
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(left, 1.0))
            self._asked = time.monotonic()
            new_samples = min(self._sample_number - seen.sample, len(self._samples))
            return Update(
                Seen(self._run, self._picture_number, self._state_number, self._sample_number),
                round(time.monotonic() - self._start, 3),
                vars(self._state).copy() if self._state_number > seen.state else None,
                list(self._samples)[len(self._samples) - new_samples :] if new_samples > 0 else [],
                self._picture if self._picture_number > seen.picture else None,
            )

    @property
    def closed(self) -> bool:
        """Whether nothing comes any more."""
        return self._closed

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
