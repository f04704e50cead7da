"""One camera: its mailbox, its calibration, and what is done with each of its frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from rt_seg_ros.images import MAX_PIXELS, Frame, ImageRejected, Order
from rt_seg_ros.msg import SegmentationStats
from rt_seg_ros.pipeline import Segmentation, Segmenter
from rt_seg_ros.ros import conversions, mailbox, qos
from rt_seg_ros.ros.diagnostics import Health, Limits, Throttle, camera_status
from rt_seg_ros.ros.image_subscription import ImageSubscription
from rt_seg_ros.ros.mailbox import Letter, Mailbox
from rt_seg_ros.ros.names import Topic
from rt_seg_ros.ros.outputs import Drawing, Outputs, Wanted
from rt_seg_ros.working_size import MIN_SIDE, STEP

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.subscription import Subscription

#: While nobody subscribes, one frame in this many seconds is looked at, so that bad images are still reported: in each
#: of the reports, which come once a second.
_GLANCE_PERIOD = 0.9
#: Of so many 16-bit images one has a sample that takes more than 12 bits, in whatever light, where the camera has more.
_DEEP_IMAGES = 30
_HIGHEST_OF_12_BITS = 4095


@dataclass(frozen=True)
class Serving:
    """What a frame is served with. The node replaces it as a whole, between two frames."""

    segmenter: Segmenter
    drawing: Drawing = field(default_factory=Drawing)
    lazy: bool = True
    max_image_pixels: int = MAX_PIXELS
    sample_bits: int = 16


@dataclass(frozen=True)
class Ready:
    """A frame that is ready for the network: what arrived, what is wanted of it, and when (``time.monotonic()``)."""

    letter: Letter
    wanted: Wanted
    frame: Frame
    begin: float
    converted: float


def _info_beside(topic: str) -> str:
    return f"{topic.rsplit('/', 1)[0]}/camera_info"


class FrameKind(NamedTuple):
    """What of a frame a runtime makes itself ready for, in the order in which :meth:`Segmenter.warm_up` takes it."""

    height: int
    width: int
    order: Order
    confidence: bool  # whether it was wanted


class Camera:
    """One camera of the node.

    :param name: its name in this node
    :param topic: full base name of its image topic, before any remapping
    :param transport: ``raw`` or ``compressed``
    :param condition: shared by the mailboxes of all cameras
    :param if_free: does what a subscription's event asks for, unless another thread is changing the node
    """

    def __init__(
        self,
        node: Node,
        name: str,
        topic: str,
        transport: str,
        outputs: Outputs,
        condition: threading.Condition,
        if_free: Callable[[Callable[[], None]], None],
    ) -> None:
        self.name = name
        base = node.resolve_topic_name(topic)
        raw = Topic(node, topic)
        compressed = Topic.beside(node, f"{topic}/compressed", f"{base}/compressed")
        own, self._other = (raw, compressed) if transport == "raw" else (compressed, raw)
        self._info_topic = Topic.beside(node, _info_beside(topic), _info_beside(base))
        self.topic = own.name
        self.outputs = outputs
        self.mailbox = Mailbox(condition)
        self.health = Health()
        self.kind: FrameKind | None = None  # of the last frame
        self._node = node
        self._log = node.get_logger()
        self._type = Image if transport == "raw" else CompressedImage
        self._convert = conversions.frame_from_image if transport == "raw" else conversions.frame_from_compressed_image
        self._throttle = Throttle()
        self.images = ImageSubscription(node, name, own, self._type, self._on_image, partial(if_free, self.rematch))
        self._info_subscription: Subscription | None = None
        self._info_durability = qos.VOLATILE
        self._info: CameraInfo | None = None
        self._next_glance = 0.0
        self._deep_images = self._highest_sample = 0

    # --- on the executor's thread ---------------------------------------------------------------------------------

    def topics(self) -> list[str]:
        """Return the full names of the topics this camera has to do with."""
        return [self.topic, self._info_topic.name, *self.outputs.topics()]

    def activate(self) -> None:
        """Open the mailbox and subscribe."""
        self.health.reset()
        self._next_glance = 0.0
        self._deep_images = self._highest_sample = 0
        self.mailbox.open()
        self.images.open()

    def deactivate(self) -> None:
        """Unsubscribe; a frame that waits is dropped."""
        self.images.close()
        self.follow_info(False)
        self.mailbox.close()

    def close(self) -> None:
        """Let everything go."""
        self.deactivate()
        self.outputs.close()

    def rematch(self) -> None:
        """Subscribe anew where the publishers have come to offer another quality of service."""
        if self._info_subscription is not None:
            self._match_info()
        self.images.rematch()

    def status(self, name: str, hardware_id: str, limits: Limits, active: bool) -> DiagnosticStatus:
        """Return how the camera is, and begin its next window.

        :param name: the status's
        :param hardware_id: what the network runs on
        :param active: whether the node is, so that images are to come
        """
        publishers = self.images.publishers()
        return camera_status(
            name,
            hardware_id,
            self.topic,
            self.health,
            self.mailbox.counts(),
            limits,
            active=active,
            reliability=qos.word(self.images.reliability),
            publishers=len(publishers),
            remarks=self.remarks(publishers),
            output_remarks=self.output_remarks(),
        )

    def remarks(self, publishers: list[Any]) -> list[str]:
        """Return what is wrong with the topic, as far as the graph tells."""
        result = []
        wanted = self.images.profile
        if wanted is not None:
            reasons = sorted({reason for p in publishers if (reason := qos.mismatch(p.qos_profile, wanted))})
            result += [f"a publisher's QoS does not match: {reason}" for reason in reasons]
            kept = qos.match_durability(publishers) == qos.TRANSIENT_LOCAL
            if kept and wanted.durability == qos.VOLATILE and not self.health.has_come:
                result.append(
                    "what was published before is kept there: to have it, set durability to transient_local and "
                    f"reliability to reliable in qos_overrides.{self.topic}.subscription"
                )
        expected = f"sensor_msgs/msg/{self._type.__name__}"
        others = sorted({info.topic_type for info in publishers} - {expected})
        base, _, last = self.topic.rpartition("/")
        if others and self._type is Image and last == "compressed":
            result.append(f"{self.topic} is compressed: name {base} and set image_transport to compressed")
        elif others:
            result.append(f"{self.topic} carries {', '.join(others)}, not {expected}: see image_transport")
        if not publishers:
            transport, other = ("compressed", CompressedImage) if self._type is Image else ("raw", Image)
            types = {info.topic_type for info in self._other.publishers()}
            if f"sensor_msgs/msg/{other.__name__}" in types:
                result.append(f"{self._other.name} has a publisher: set image_transport to {transport}")
            elif expected in types:
                result.append(f"{self._other.name} is compressed: name {self._other.name.rpartition('/')[0]}")
        return result

    def output_remarks(self) -> list[str]:
        """Return what keeps the outputs from those who subscribe to them."""
        result = self.outputs.remarks()
        if self._info_subscription is not None and self._info is None and self.mailbox.counts().processed:
            if "camera_info" in self.outputs.wanted():
                result.append(f"no calibration on {self._info_topic.name}: ~/camera_info has nothing to publish")
        return result

    def follow_info(self, follow: bool) -> None:
        """Keep the camera's last calibration, or do so no longer."""
        if follow and self._info_subscription is None:
            self._match_info()
        elif not follow and self._info_subscription is not None:
            self._node.destroy_subscription(self._info_subscription)
            self._info_subscription = None
            self._info = None

    def _match_info(self) -> None:
        """Subscribe to the calibration: a camera may publish it once, and keep it for those who come later."""
        publishers = self._info_topic.publishers()
        durability = qos.match_durability(publishers)
        former = self._info_subscription
        if former is not None and (durability == self._info_durability or not publishers):
            return
        reliability = qos.RELIABLE if durability == qos.TRANSIENT_LOCAL else qos.BEST_EFFORT
        self._info_subscription = self._node.create_subscription(
            CameraInfo,
            self._info_topic.given,
            self._on_info,
            qos.sensor_data(reliability, durability),
            qos_overriding_options=qos.overriding(self._node, self._info_topic.name, "subscription"),
        )
        self._info_durability = durability
        if former is not None:
            self._node.destroy_subscription(former)

    def _on_image(self, message: Any) -> None:
        now = time.monotonic()
        self.health.arrived(now)
        self.mailbox.put(message, now)

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    # --- on the worker's thread -----------------------------------------------------------------------------------

    def begin(self, letter: Letter, serving: Serving) -> Ready | None:
        """Make a message ready for the network. Raises nothing: a frame that ends here is counted.

        :return: None where nothing more is to be done with it
        """
        begin = time.monotonic()
        message = letter.message
        reason = "outputs_failed"
        try:
            wanted = self.outputs.wanted(serving.segmenter.config.output_resolution != "input")
            listened = bool(wanted) or not serving.lazy
            if not listened:
                if begin < self._next_glance:
                    self.mailbox.dropped(mailbox.NO_SUBSCRIBER)
                    return None
                self._next_glance = begin + _GLANCE_PERIOD  # now: an image that is refused was looked at too
            reason = "conversion_failed"
            frame: Frame = self._convert(message, serving.max_image_pixels, serving.sample_bits)
            if frame.peak is not None or self._deep_images:
                self._look_at_samples(frame.peak, serving.sample_bits)
            _check_working_size(frame, serving)
            if not listened:
                self.mailbox.dropped(mailbox.NO_SUBSCRIBER)
                return None
        except ImageRejected as error:
            self._reject(error.reason, str(error))
        except Exception as error:  # one frame is lost, not the node
            self.fail(reason, error)
        else:
            return Ready(letter, wanted, frame, begin, time.monotonic())
        return None

    def _look_at_samples(self, highest: int | None, sample_bits: int) -> None:
        """Tell where images of 16 bits seem to use 12 of them only, and are segmented nearly black.

        :param highest: the largest sample of one image; None where it had 8 bits, and all begins anew
        """
        if highest is None:
            self._deep_images = self._highest_sample = 0
        else:
            self._deep_images += 1
            self._highest_sample = max(self._highest_sample, highest)
        remark = ""
        # Nothing but zeros tells nothing: the lens may have its cap on.
        if sample_bits == 16 and self._deep_images >= _DEEP_IMAGES and 0 < self._highest_sample <= _HIGHEST_OF_12_BITS:
            remark = (
                f"no 16-bit image had a value above {_HIGHEST_OF_12_BITS} yet, so that all are nearly black: "
                "if the camera has 12 bits, set sample_bits to 12"
            )
        if self.health.remark(remark) and remark and self._node.context.ok():
            self._warn("sample_bits", f"camera '{self.name}': {remark}")

    def fail(self, reason: str, error: Exception) -> None:
        """Count the frame in hand as rejected, for what nobody foresaw."""
        self._reject(reason, f"{type(error).__name__}: {error}")

    def finish(self, ready: Ready, result: Segmentation, serving: Serving) -> None:
        """Publish what came of a frame. Raises nothing: whatever happens, the frame is counted."""
        message, header, frame, wanted = ready.letter.message, ready.letter.message.header, ready.frame, ready.wanted
        segmenter = serving.segmenter
        segmented = time.monotonic()
        self.kind = FrameKind(frame.height, frame.width, frame.order, result.confidence is not None)
        try:
            published = self.outputs.publish(
                wanted, header, frame, result, segmenter.label_space, serving.drawing, self._info
            )
        except Exception as error:  # one frame is lost, not the node
            self.fail("publishing_failed", error)
            return
        if not published:
            self.mailbox.dropped(mailbox.OTHER_LABELS)
            return
        end = time.monotonic()
        age = self._age(header)
        total = (end - ready.letter.arrival) * 1e3
        self.health.processed(
            frame.height,
            frame.width,
            getattr(message, "encoding", "compressed"),
            result.timings.get("network", 0.0),
            total,
            age,
        )
        self.mailbox.processed()
        if wanted.stats:
            self._publish_stats(
                header,
                segmenter,
                result,
                image_height=frame.height,
                image_width=frame.width,
                decode_ms=(ready.converted - ready.begin) * 1e3,
                wait_ms=(ready.begin - ready.letter.arrival) * 1e3,
                publish_ms=(end - segmented) * 1e3,
                total_ms=total,
                age_ms=age,
            )

    def _publish_stats(self, header: Any, segmenter: Segmenter, result: Segmentation, **measured: float) -> None:
        counts = self.mailbox.counts()
        try:
            stats = SegmentationStats(
                header=header,
                camera=self.name,
                model=segmenter.card.name,
                label_space=segmenter.label_space.name,
                backend=segmenter.backend_name,
                device=segmenter.device,
                precision=segmenter.precision,
                working_height=result.working_size[0],
                working_width=result.working_size[1],
                preprocess_ms=result.timings.get("preprocess", 0.0),
                network_ms=result.timings.get("network", 0.0),
                postprocess_ms=result.timings.get("postprocess", 0.0),
                received=counts.received,
                processed=counts.processed,
                dropped=counts.total_dropped,
                rejected=counts.total_rejected,
                **measured,
            )
            self.outputs.publish_stats(stats)
        except Exception as error:  # the frame itself is published and counted
            if self._node.context.ok():
                self._warn("stats", f"camera '{self.name}': statistics could not be published: {error}")

    def _age(self, header: Any) -> float:
        """Return the age of a stamp by the node's clock (ms); NaN where there is none."""
        stamp = conversions.stamp_nanoseconds(header)
        if stamp == 0:
            return float("nan")
        return (self._node.get_clock().now().nanoseconds - stamp) / 1e6

    def _reject(self, reason: str, message: str) -> None:
        self.mailbox.rejected(reason)
        self.health.rejected(reason, message)
        if self._node.context.ok():
            self._warn(reason, f"camera '{self.name}': image rejected ({reason}): {message}")

    def _warn(self, kind: str, message: str) -> None:
        held_back = self._throttle.passes(kind)
        if held_back is not None:
            more = f" ({held_back} more like it since the last report)" if held_back else ""
            self._log.warning(f"{message}{more}")


def _check_working_size(frame: Frame, serving: Serving) -> None:
    """Refuse an image that is small, but so narrow that the network would work at a size beyond the limit.

    :raises ImageRejected: such a one
    """
    height, width = serving.segmenter.working_size(frame.height, frame.width)
    limit = max(serving.max_image_pixels, MIN_SIDE**2)
    if height <= frame.height + STEP and width <= frame.width + STEP:
        return  # as large as it came, but for whole steps
    if not serving.segmenter.config.input_height and height * width > limit:
        raise ImageRejected(
            "too_large",
            f"an image of {frame.width}x{frame.height} pixels is segmented at {width}x{height}; "
            f"the limit is {limit} pixels",
        )
