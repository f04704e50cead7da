"""A mailbox with one slot: the newest frame waits, an older one gives way and is counted.

Delay cannot grow in it. Every frame that comes in ends as exactly one of processed, dropped or rejected, and at any
moment at most one waits and one is in hand::

    received = processed + dropped + rejected + waiting + in_hand

The counts change under one lock, so the equation holds in every :class:`Counts` that is read.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

#: Reasons for which a frame is dropped.
NEWER_FRAME = "newer_frame"  # another came before the network was free
MAX_RATE = "max_rate"  # it came sooner than max_rate allows
NO_SUBSCRIBER = "no_subscriber"  # nobody listened to any output
OTHER_LABELS = "other_labels"  # its labels are of a label space that gave way while it was in the network
DEACTIVATED = "deactivated"  # the node was deactivated while the frame waited


@dataclass(frozen=True)
class Counts:
    """What became of a camera's frames since the counts were last reset."""

    received: int = 0
    processed: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0
    in_hand: int = 0
    #: When the frame in hand was taken (``time.monotonic()``).
    busy_since: float | None = None

    @property
    def total_dropped(self) -> int:
        """Frames dropped, for whatever reason."""
        return sum(self.dropped.values())

    @property
    def total_rejected(self) -> int:
        """Frames rejected, for whatever reason."""
        return sum(self.rejected.values())


@dataclass(frozen=True)
class Letter:
    """A message and when it arrived (``time.monotonic()``, seconds)."""

    message: Any
    arrival: float


class Mailbox:
    """One camera's slot.

    :param condition: shared by the mailboxes of one worker; notified when a frame comes in
    """

    def __init__(self, condition: threading.Condition | None = None) -> None:
        self._condition = condition or threading.Condition()
        self._open = False
        self._slot: Letter | None = None
        self._in_hand = 0
        self._taken: float | None = None
        self._period = 0.0
        self._not_before = 0.0
        self._reset()

    def _reset(self) -> None:
        self._received = 0
        self._processed = 0
        self._dropped: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()

    def open(self) -> None:
        """Accept frames from now on, with the counts at zero."""
        with self._condition:
            self._reset()
            self._not_before = 0.0
            self._open = True

    def close(self) -> None:
        """Accept no more frames; one that waits is dropped."""
        with self._condition:
            self._open = False
            if self._slot is not None:
                self._slot = None
                self._dropped[DEACTIVATED] += 1

    def limit_rate(self, rate: float) -> None:
        """Accept at most ``rate`` frames a second (0: all)."""
        with self._condition:
            self._period = 1.0 / rate if rate > 0 else 0.0
            self._not_before = 0.0

    def put(self, message: Any, now: float | None = None) -> bool:
        """Put a message in; one that waited gives way.

        :param now: ``time.monotonic()`` of its arrival
        :return: whether it waits now, and was not dropped itself
        """
        now = time.monotonic() if now is None else now
        with self._condition:
            if not self._open:
                return False
            self._received += 1
            if self._period:
                if now < self._not_before:
                    self._dropped[MAX_RATE] += 1
                    return False
                # Count on from when a frame was due, not from when it came: jitter must not lower the rate.
                late = now - self._not_before
                self._not_before = (self._not_before if late < self._period else now) + self._period
            if self._slot is not None:
                self._dropped[NEWER_FRAME] += 1
            self._slot = Letter(message, now)
            self._condition.notify()
            return True

    def take(self) -> Letter | None:
        """Take the frame that waits, if one does; it is in hand until one of the three below ends it."""
        with self._condition:
            letter, self._slot = self._slot, None
            if letter is not None:
                self._in_hand += 1
                self._taken = time.monotonic()
            return letter

    def processed(self) -> None:
        """Count the frame in hand as processed."""
        with self._condition:
            self._in_hand -= 1
            self._processed += 1

    def dropped(self, reason: str) -> None:
        """Count the frame in hand as dropped."""
        with self._condition:
            self._in_hand -= 1
            self._dropped[reason] += 1

    def rejected(self, reason: str) -> None:
        """Count the frame in hand as rejected."""
        with self._condition:
            self._in_hand -= 1
            self._rejected[reason] += 1

    def counts(self) -> Counts:
        """Return all counts as of one moment."""
        with self._condition:
            return Counts(
                received=self._received,
                processed=self._processed,
                dropped=dict(self._dropped),
                rejected=dict(self._rejected),
                waiting=int(self._slot is not None),
                in_hand=self._in_hand,
                busy_since=self._taken if self._in_hand else None,
            )


class RoundRobin:
    """Takes frames from several mailboxes in turn, so that a fast camera cannot starve a slow one.

    :param condition: the one the mailboxes share
    """

    def __init__(self, condition: threading.Condition, mailboxes: Sequence[Mailbox]) -> None:
        self._condition = condition
        self._mailboxes = list(mailboxes)
        self._held: set[int] = set()
        self._next = 0
        self._stopped = False

    def stop(self) -> None:
        """Make :meth:`take` return None from now on."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def take(self) -> tuple[int, Letter] | None:
        """Wait for a frame and take it.

        :return: the place of its mailbox and the letter; None after :meth:`stop`
        """
        with self._condition:
            while not self._stopped:
                taken = self._take_next(self._held)
                if taken is not None:
                    return taken
                self._condition.wait()
            return None

    def take_waiting(self, limit: int, besides: int) -> list[tuple[int, Letter]]:
        """Take what waits now, at most ``limit`` frames, without waiting for more; as :meth:`take` gives them.

        :param besides: place of a mailbox whose frame is in hand: its next waits
        """
        with self._condition:
            held = self._held | {besides}
            taken: list[tuple[int, Letter]] = []
            while len(taken) < limit and not self._stopped and (one := self._take_next(held)) is not None:
                taken.append(one)
            return taken

    def hold(self, place: int) -> None:
        """Take nothing from a mailbox until :meth:`release`."""
        with self._condition:
            self._held.add(place)

    def release(self, place: int) -> None:
        """Take from a mailbox again."""
        with self._condition:
            self._held.remove(place)
            self._condition.notify_all()

    def _take_next(self, held: Set[int]) -> tuple[int, Letter] | None:
        count = len(self._mailboxes)
        for step in range(count):
            place = (self._next + step) % count
            letter = None if place in held else self._mailboxes[place].take()
            if letter is not None:
                self._next = (place + 1) % count
                return place, letter
        return None
