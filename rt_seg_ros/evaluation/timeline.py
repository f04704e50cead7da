"""At which second of a video a frame is shown: as its stamps say, as long as they make sense."""

from __future__ import annotations

_NANO = 1_000_000_000
#: Nanoseconds; a longer step is believed only if the time of recording takes it, too.
_LONGEST = 60 * _NANO


class Timeline:
    """Turns the stamps of a drive's frames into seconds from its first one, which always rise.

    Where stamps stand still, step back or jump by more than a minute, the time of recording tells how long a frame
    lasted; where there is none, or it makes no sense either, frames go on at the usual interval. After a single wrong
    stamp the others are where they would be without it.

    :param rate: frames a second, on average; 0 where that is not known
    """

    def __init__(self, rate: float) -> None:
        self._usual = round(_NANO / rate) if rate > 0 else _NANO // 10
        self._begin: int | None = None  # the stamp that is at second 0
        self._former: int | None = None  # the same before the last one that did not fit
        self._now = self._stamp = 0
        self._recorded: int | None = None

    def seconds(self, stamp_ns: int, recorded_ns: int | None = None) -> float:
        """Return where the next frame is.

        :param recorded_ns: when it was recorded; None where that is not known
        """
        if self._begin is None:
            self._begin = stamp_ns
        else:
            took = recorded_ns - self._recorded if recorded_ns is not None and self._recorded is not None else 0
            begin = self._fitting(stamp_ns, took > _LONGEST)
            if begin is not None:
                self._begin, self._former = begin, None
                self._now = stamp_ns - begin
            else:
                step = took if 0 < took <= _LONGEST else self._usual
                # The first halfway only: so the next one has its own place, where its stamp is right again.
                self._now += step if self._former is not None else max(step // 2, 1)
                self._former = self._begin if self._former is None else self._former
                if stamp_ns != self._stamp:
                    self._begin = stamp_ns - self._now
        self._stamp, self._recorded = stamp_ns, recorded_ns
        return self._now / _NANO

    def _fitting(self, stamp_ns: int, paused: bool) -> int | None:
        """Return the stamp of second 0 by which this one comes after the last, and not too late."""
        for begin in (self._former, self._begin):
            step = 0 if begin is None else stamp_ns - begin - self._now
            if step > 0 and (step <= _LONGEST or paused):
                return begin
        return None
