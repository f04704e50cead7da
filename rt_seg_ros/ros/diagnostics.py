"""How the node is, in /diagnostics: one status for the model, and one for each camera."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from diagnostic_msgs.msg import DiagnosticStatus

from rt_seg_ros.pipeline import Segmenter
from rt_seg_ros.ros.mailbox import MAX_RATE, NO_SUBSCRIBER, Counts
from rt_seg_ros.ros.messages import key_values

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

#: A stamp that lies further ahead (ms) is by another clock: less is what clocks that are kept together differ by, and
#: what simulated time proceeds by at once.
_AHEAD = 100.0


class Throttle:
    """Lets a message of a kind through once in a while, and counts those it held back."""

    def __init__(self, period: float = 5.0) -> None:
        self._period = period
        self._last: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def passes(self, kind: str, now: float | None = None) -> int | None:
        """Return None where a message of this kind must wait, else how many were held back since the last."""
        now = time.monotonic() if now is None else now
        with self._lock:
            last, held_back = self._last.get(kind, (float("-inf"), 0))
            if now - last < self._period:
                self._last[kind] = (last, held_back + 1)
                return None
            self._last[kind] = (now, 0)
            return held_back


@dataclass
class Window:
    """What happened to a camera since the last report. Milliseconds; seconds by ``time.monotonic()``."""

    begin: float
    totals: list[float] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    networks: list[float] = field(default_factory=list)
    arrived: int = 0
    rejected: int = 0
    #: Frames dropped before it began, by reason.
    dropped_before: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What is known of a camera's images: when one last came, its size and encoding, the last that was rejected.

    ``remark`` says what is odd about images that can be used.
    """

    arrival: float | None = None
    height: int = 0
    width: int = 0
    encoding: str = ""
    unstamped: bool = False
    last_rejection: str = ""
    remark: str = ""


class Health:
    """Gathers what a camera's status tells; written by the executor's and the worker's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Begin anew, as at activation."""
        now = time.monotonic()
        with self._lock:
            self.since = now
            self._window = Window(now)
            self._seen = Seen()

    @property
    def has_come(self) -> bool:
        """Whether an image has come."""
        return self._seen.arrival is not None

    def arrived(self, now: float) -> None:
        """Note that an image came."""
        with self._lock:
            self._window.arrived += 1
            self._seen = replace(self._seen, arrival=now)

    def processed(
        self, height: int, width: int, encoding: str, network_ms: float, total_ms: float, age_ms: float
    ) -> None:
        """Note a frame whose labels were published; ``age_ms`` is NaN where the image has no stamp."""
        with self._lock:
            self._window.totals.append(total_ms)
            self._window.networks.append(network_ms)
            unstamped = math.isnan(age_ms)
            if not unstamped:
                self._window.ages.append(age_ms)
            self._seen = replace(self._seen, height=height, width=width, encoding=encoding, unstamped=unstamped)

    def rejected(self, reason: str, message: str) -> None:
        """Note an image that could not be used."""
        with self._lock:
            self._window.rejected += 1
            self._seen = replace(self._seen, last_rejection=f"{reason}: {message}")

    def remark(self, text: str) -> bool:
        """Note what is odd about images that can be used, or with an empty text that nothing is.

        :return: whether that is new
        """
        with self._lock:
            new = text != self._seen.remark
            if new:
                self._seen = replace(self._seen, remark=text)
            return new

    def turn(self, dropped: Mapping[str, int]) -> tuple[Window, Seen]:
        """Return what happened since the last turn, and begin another window.

        :param dropped: frames dropped until now, by reason
        """
        with self._lock:
            window, self._window = self._window, Window(time.monotonic(), dropped_before=dropped)
            return window, self._seen


@dataclass(frozen=True)
class Limits:
    """When a camera's status is no longer OK (seconds; 0: never)."""

    input_timeout: float = 0.0
    max_age: float = 0.0


def camera_status(
    name: str,
    hardware_id: str,
    topic: str,
    health: Health,
    counts: Counts,
    limits: Limits,
    *,
    active: bool,
    reliability: str,
    publishers: int,
    remarks: Sequence[str] = (),
    output_remarks: Sequence[str] = (),
) -> DiagnosticStatus:
    """Return one camera's status, and begin its next window.

    :param remarks: what is wrong with its topic, as far as the graph tells
    :param output_remarks: what keeps its outputs from those who subscribe to them
    """
    window, seen = health.turn(counts.dropped)
    now = time.monotonic()
    elapsed = max(now - window.begin, 1e-6)
    level, message = OK, "segmenting" if window.totals else "inactive"
    if active:
        busy = now - counts.busy_since if counts.busy_since is not None else 0.0
        silence = now - (seen.arrival if seen.arrival is not None else health.since)
        if limits.input_timeout and silence > limits.input_timeout:
            level, message = ERROR, _silent(topic, silence, seen, publishers, remarks)
        else:
            level, message = _verdict(window, seen, counts, busy, limits.max_age)
            found = [*remarks, *([seen.remark] if seen.remark else []), *output_remarks]
            if found:
                more = [] if level == OK else [message]
                level, message = WARN, "; ".join([*found, *more])

    def mean(values: Sequence[float]) -> str:
        return f"{sum(values) / len(values):.1f}" if values else ""

    def most(values: Sequence[float]) -> str:
        return f"{max(values):.1f}" if values else ""

    pairs: list[tuple[str, object]] = [
        ("topic", topic),
        ("publishers", publishers),
        ("reliability", reliability),
        ("image", f"{seen.width}x{seen.height} {seen.encoding}".strip() if seen.height else ""),
        ("input rate (Hz)", f"{window.arrived / elapsed:.1f}"),
        ("output rate (Hz)", f"{len(window.totals) / elapsed:.1f}"),
        ("latency mean (ms)", mean(window.totals)),
        ("latency max (ms)", most(window.totals)),
        ("network mean (ms)", mean(window.networks)),
        ("age mean (ms)", mean(window.ages)),
        ("age max (ms)", most(window.ages)),
        ("received", counts.received),
        ("processed", counts.processed),
        ("dropped", counts.total_dropped),
        ("rejected", counts.total_rejected),
        ("waiting", counts.waiting),
        ("in hand", counts.in_hand),
        *((f"dropped: {reason}", count) for reason, count in sorted(counts.dropped.items())),
        *((f"rejected: {reason}", count) for reason, count in sorted(counts.rejected.items())),
        ("last rejection", seen.last_rejection),
    ]
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware_id, values=key_values(pairs))


def _silent(topic: str, silence: float, seen: Seen, publishers: int, remarks: Sequence[str]) -> str:
    """Say that no image comes, and what may be the reason."""
    message = f"no image on {topic} for {silence:.1f} s" if seen.arrival else f"no image on {topic} yet"
    details = list(remarks)
    if not publishers:
        details.append("it has no publisher")
    elif not details:
        details.append(f"publishers: {publishers}, silent, or their messages are lost on the way")
    return f"{message} ({'; '.join(details)})"


def _verdict(window: Window, seen: Seen, counts: Counts, busy: float, max_age: float) -> tuple[bytes, str]:
    """Judge a camera whose images come: level and message.

    :param busy: seconds for which a frame has been in the network
    :param max_age: seconds that labels may be old; 0: any
    """
    worst_age = max(window.ages, default=0.0)
    if max_age and busy > max_age:
        return WARN, f"one frame has been in the network for {busy:.1f} s; max_age is {max_age:g} s"
    if window.rejected:
        images = "image" if window.rejected == 1 else "images"
        return WARN, f"{window.rejected} {images} rejected; the last: {seen.last_rejection}"
    if seen.unstamped:
        return WARN, "the images have no stamp: the age of labels is unknown"
    if max_age and worst_age > max_age * 1e3:
        here = max(window.totals, default=0.0)
        reason = (
            f"{here / 1e3:.2f} s of that in this node: the network or the machine is too slow"
            if here > worst_age / 2
            else "for a recording, or a camera with another clock: see use_sim_time"
        )
        return WARN, f"labels were up to {worst_age / 1e3:.2f} s old, max_age is {max_age:g} s ({reason})"
    ahead = -min(window.ages, default=0.0)
    if max_age and ahead > _AHEAD:
        words = f"stamps are up to {ahead / 1e3:.2f} s ahead of this node's clock"
        return WARN, f"{words} (another clock, or simulated time: see use_sim_time)"
    return OK, "segmenting" if window.totals else _idle(window, counts)


def _idle(window: Window, counts: Counts) -> str:
    """Say why no frame was segmented, though none was refused."""
    for reason, words in ((NO_SUBSCRIBER, "nobody subscribes"), (MAX_RATE, "held back by max_rate")):
        if counts.dropped.get(reason, 0) > window.dropped_before.get(reason, 0):
            return words
    return "waiting for the network" if window.arrived or counts.in_hand else "waiting for an image"


def model_facts(segmenter: Segmenter, sizes: Collection[tuple[int, int]]) -> list[tuple[str, object]]:
    """Return what a model's status tells of it, in order.

    :param sizes: (height, width) of the images that the cameras have
    """
    return [
        ("model", segmenter.card.name),
        ("weights", segmenter.card.weights or "random"),
        ("label space", segmenter.label_space.name),
        ("backend", segmenter.backend_name),
        ("device", segmenter.device),
        ("precision", segmenter.precision),
        ("working size", working_size(segmenter, sizes)),
    ]


def working_size(segmenter: Segmenter, sizes: Collection[tuple[int, int]]) -> str:
    """Return in words at which size a segmenter works.

    :param sizes: (height, width) of the images that the cameras have
    """
    config, card = segmenter.config, segmenter.card
    if config.input_height:
        return f"working at {config.input_width}x{config.input_height}"
    if config.downsampling_ratio:
        return f"working at {config.downsampling_ratio:g} of the image's size"
    if card.frame_size is None:
        return "working at the image's size"
    if sizes:
        working = {segmenter.working_size(height, width) for height, width in sizes}
        return f"working at {', '.join(f'{width}x{height}' for height, width in sorted(working))}"
    height, width = card.frame_size
    return f"working {'at' if card.resized else 'near'} {width}x{height}, as it learnt"


def model_status(
    name: str,
    hardware_id: str,
    state: str,
    facts: Sequence[tuple[str, object]],
    *,
    error: str = "",
    failed_change: str = "",
    trouble: str = "",
    preparing: str = "",
) -> DiagnosticStatus:
    """Return the status of the node and its model.

    :param error: why the node could not be configured or activated
    :param failed_change: why the last change of a parameter could not be carried out
    :param trouble: what failed, while another serves in its place
    :param preparing: what is being prepared aside
    """
    level, message = OK, state
    if preparing:
        message = f"{state}; preparing {preparing}"
    if trouble:
        level, message = WARN, f"{message}; {trouble}"
    if failed_change:
        level, message = WARN, f"{message}; a change failed: {failed_change}"
    if error:
        level, message = ERROR, f"{state}: {error}"
    pairs = [("state", state), *facts, ("preparing", preparing), ("last error", error or failed_change or trouble)]
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware_id, values=key_values(pairs))
