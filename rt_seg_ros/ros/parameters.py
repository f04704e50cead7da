"""The node's parameters: one table, from which they are declared, checked and documented.

``config/segment.yaml`` and README's table are held against it by tests; print the latter with
``python -m rt_seg_ros.ros.parameters``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from rt_seg_ros.backends import BACKENDS, PRECISIONS
from rt_seg_ros.errors import UserError, did_you_mean
from rt_seg_ros.images import MAX_PIXELS
from rt_seg_ros.labels import LabelSpace
from rt_seg_ros.pipeline import MAX_THREADS, OUTPUT_RESOLUTIONS, SegmenterConfig
from rt_seg_ros.working_size import MAX_SIDE, MIN_SIDE, STEP

if TYPE_CHECKING:
    from rclpy.node import Node

Kind = Literal["bool", "int", "float", "string", "strings"]
#: When a change takes effect: with the next frame; with the first frame after what it needs was prepared aside;
#: at the next activation (it is refused while the node is active); never after the start.
Change = Literal["at once", "prepared", "inactive", "start"]
Values = dict[str, Any]

_TYPES: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (int, float), "string": (str,)}

IMAGE_TRANSPORTS = ("raw", "compressed")


@dataclass(frozen=True)
class Parameter:
    """One parameter of the node.

    The two ``limits`` are allowed themselves; whole numbers must be multiples of ``step``. A text that must match
    ``pattern`` has a description that says what matches.
    """

    name: str
    kind: Kind
    default: Any
    change: Change
    description: str
    limits: tuple[float, float] | None = None
    step: int = 1
    choices: tuple[str, ...] = ()
    pattern: str = ""

    def check(self, value: Any) -> Any:
        """Return ``value`` in the parameter's own type.

        Whole numbers do for a ``float``; one string, or several with commas between, for ``strings``.

        :raises UserError: naming the parameter, the value, and what is allowed
        """
        if self.kind == "strings":
            return self._strings(value)
        if not isinstance(value, _TYPES[self.kind]) or (isinstance(value, bool) and self.kind != "bool"):
            raise self._refusal(value)
        if self.kind == "string":
            return self._text(value)
        return value if self.kind == "bool" else self._number(value)

    def _number(self, value: Any) -> float:
        number = float(value) if self.kind == "float" else value
        outside = self.limits is not None and not self.limits[0] <= number <= self.limits[1]
        if outside or not math.isfinite(number) or (self.kind == "int" and number % self.step):
            raise self._refusal(value)
        return number

    def _text(self, value: Any) -> str:
        if self.choices and value not in self.choices:
            raise self._refusal(value, did_you_mean(value, self.choices))
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise self._refusal(value)
        return str(value)

    def _strings(self, value: Any) -> list[str]:
        if isinstance(value, str):
            value = value.split(",")
        # An empty list has no type in ROS 2, and comes as one of bytes.
        if isinstance(value, bytes) and not value:
            value = []
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            raise self._refusal(value)
        entries = list(value)
        if not all(isinstance(entry, str) for entry in entries):
            raise self._refusal(value)
        return [entry.strip() for entry in entries if entry.strip()]

    def _refusal(self, value: Any, near: str = "") -> UserError:
        shown = repr(value) if isinstance(value, str) else value
        return UserError(f"{self.name} is {shown}{near}; expected {self.expected()}")

    def expected(self) -> str:
        """Return in words what is allowed."""
        if self.choices:
            return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"
        if self.pattern:
            return self.description.rstrip(".")
        words = {
            "bool": "true or false",
            "int": "a whole number",
            "float": "a number",
            "string": "text",
            "strings": "a list of texts",
        }[self.kind]
        if self.step > 1:
            words += f" (a multiple of {self.step})"
        return words if self.limits is None else f"{words} from {_shown(self.limits[0])} to {_shown(self.limits[1])}"


def _shown(value: float) -> str:
    return f"{value:g}" if value < 1e6 else f"{value:.0f}"


_CONFIG = SegmenterConfig()

PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "model", "string", _CONFIG.model, "prepared",
        "Network (cgnet) or weights (cgnet_camvid11) by name; `rt-seg models` lists them.",
    ),
    Parameter(
        "weights", "string", _CONFIG.weights, "prepared",
        "File of weights (.safetensors) to use in place of the package's own; empty: the package's own.",
    ),
    Parameter(
        "label_space", "string", _CONFIG.label_space, "prepared",
        "Classes: camvid11, cityscapes19, or a YAML file; empty: those of the weights.",
    ),
    Parameter(
        "allow_random_weights", "bool", _CONFIG.allow_random_weights, "prepared",
        "Start even with a model that has no weights yet. Its labels mean nothing: for trying things out.",
    ),
    Parameter(
        "backend", "string", _CONFIG.backend, "prepared",
        "Runtime that computes the network; auto: the fastest that works here.", choices=BACKENDS,
    ),
    Parameter(
        "device", "string", _CONFIG.device, "prepared", "auto, cpu, cuda, or cuda:N for GPU N.",
        pattern=r"auto|cpu|cuda(:\d{1,3})?",
    ),
    Parameter("precision", "string", _CONFIG.precision, "prepared", "Arithmetic of the network.", choices=PRECISIONS),
    Parameter(
        "threads", "int", _CONFIG.threads, "prepared",
        "CPU threads of the network; 0: the runtime's own choice.", limits=(0, MAX_THREADS),
    ),
    Parameter(
        "input_height", "int", _CONFIG.input_height, "prepared",
        "Height at which the network works (pixels); 0: as downsampling_ratio says. "
        "Takes effect together with input_width.", limits=(0, MAX_SIDE), step=STEP,
    ),
    Parameter(
        "input_width", "int", _CONFIG.input_width, "prepared",
        "Width at which the network works (pixels); 0: as downsampling_ratio says. "
        "Takes effect together with input_height.", limits=(0, MAX_SIDE), step=STEP,
    ),
    Parameter(
        "downsampling_ratio", "float", _CONFIG.downsampling_ratio, "prepared",
        "Working size over image size, where input_height and input_width are 0; 0: such that the network sees things "
        "about as large as it learnt them, and never enlarged; with weights trained with data.size that size, always.",
        limits=(0.0, 1.0),
    ),
    Parameter(
        "output_resolution", "string", _CONFIG.output_resolution, "prepared",
        "Size of what is published: input, the image's; network, the working size, with ~/camera_info to match.",
        choices=OUTPUT_RESOLUTIONS,
    ),
    Parameter(
        "confidence_threshold", "float", _CONFIG.confidence_threshold, "at once",
        "Pixels whose label has a lower probability become 255, unlabelled; in steps of 1/255.",
        limits=(0.0, 1.0),
    ),
    Parameter(
        "camera_topics", "strings", ["camera/image_raw"], "inactive",
        "Image topics, one for each camera. Their base names, also with image_transport compressed.",
    ),
    Parameter(
        "camera_names", "strings", [], "inactive",
        "Names of the cameras, which several cameras' outputs bear (~/NAME/label); empty: made from camera_topics.",
    ),
    Parameter(
        "image_transport", "string", "raw", "inactive",
        "raw: sensor_msgs/Image on the topic itself; compressed: sensor_msgs/CompressedImage on TOPIC/compressed.",
        choices=IMAGE_TRANSPORTS,
    ),
    Parameter(
        "mask_classes", "strings", [], "at once",
        "Classes with a topic ~/mask/CLASS of their own.",
    ),
    Parameter(
        "overlay_alpha", "float", 0.5, "at once",
        "Opacity of the colours in ~/overlay.", limits=(0.0, 1.0),
    ),
    Parameter("overlay_legend", "bool", True, "at once", "Name the classes that occur in ~/overlay."),
    Parameter(
        "max_rate", "float", 0.0, "at once",
        "Frames per second (Hz) of each camera at most; those that come sooner are dropped. 0: no limit.",
        limits=(0.0, 1000.0),
    ),
    Parameter(
        "lazy", "bool", True, "at once",
        "Leave frames alone (dropped: no_subscriber) while nobody subscribes to any output; false: segment them all.",
    ),
    Parameter(
        "max_image_pixels", "int", MAX_PIXELS, "at once",
        "Larger images are rejected before memory is taken for them (pixels).", limits=(1, 2**31 - 1),
    ),
    Parameter(
        "sample_bits", "int", 16, "at once",
        "Bits that 16-bit images use: 12 for cameras whose values end at 4095.", limits=(8, 16),
    ),
    Parameter(
        "input_timeout", "float", 2.0, "at once",
        "/diagnostics reports an error when no image came for longer (seconds). 0: never.",
        limits=(0.0, 86400.0),
    ),
    Parameter(
        "max_age", "float", 1.0, "at once",
        "/diagnostics warns when a label was older at publication (seconds since its image's stamp). 0: never.",
        limits=(0.0, 86400.0),
    ),
    Parameter(
        "autostart", "bool", False, "start",
        "Configure and activate at the start, without a lifecycle manager. The launch file says true.",
    ),
)  # fmt: skip

TABLE: Mapping[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}

_CONFIG_FIELDS = tuple(field.name for field in fields(SegmenterConfig))

#: Names that rclpy itself, or tools around it, give to any node.
_FOREIGN = ("use_sim_time", "qos_overrides.", "start_type_description_service", "diagnostic_updater.")


def segmenter_config(values: Mapping[str, Any]) -> SegmenterConfig:
    """Return what the pipeline needs of the parameters."""
    return SegmenterConfig(**{name: values[name] for name in _CONFIG_FIELDS})


def check_together(values: Mapping[str, Any], config: SegmenterConfig) -> None:
    """Check what lies in several parameters.

    :param config: what ``values`` mean
    :raises UserError: what the pipeline refuses, or a working size beyond the limit of images
    """
    config.check()
    pixels, limit = config.input_height * config.input_width, max(values["max_image_pixels"], MIN_SIDE**2)
    if pixels > limit:
        raise UserError(
            f"input_height {config.input_height} and input_width {config.input_width} make {pixels} pixels; "
            f"max_image_pixels is {limit}"
        )


def check_masks(values: Mapping[str, Any], space: LabelSpace) -> None:
    """Check that a label space has the classes that are to have masks.

    :raises UserError: for the first that it has not
    """
    for name in values["mask_classes"]:
        try:
            space.id_of(name)
        except UserError as error:
            raise UserError(f"mask_classes: {error}") from error


def with_masks_of(space: LabelSpace, values: Values) -> Values:
    """Leave out the masks of classes that come with a label space which is still being prepared."""
    return {**values, "mask_classes": [name for name in values["mask_classes"] if name in space.names]}


def config_values(config: SegmenterConfig) -> Values:
    """Return the parameters that say ``config``."""
    return {name: getattr(config, name) for name in _CONFIG_FIELDS}


def unknown(names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that are no parameters."""
    return [name for name in names if name not in TABLE and not name.startswith(_FOREIGN)]


def declare(node: Node) -> dict[str, str]:
    """Declare all parameters on a node, with the values it was started with.

    A value that cannot be used is not an end to the node: the default stands in for it. What the node has declared by
    itself (``automatically_declare_parameters_from_overrides``) has no description and any type: it is declared anew.

    :return: parameters whose given value was not usable, with the reason
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.parameter import Parameter as RosParameter

    problems: dict[str, str] = {}
    given = node._parameter_overrides  # rclpy has no other way to see a value before it is declared
    for parameter in PARAMETERS:
        value = parameter.default
        if parameter.name in given:
            told = given[parameter.name].value
            try:
                # An empty list in a parameter file comes as no value at all.
                value = [] if told is None and parameter.kind == "strings" else parameter.check(told)
            except UserError as error:
                problems[parameter.name] = str(error)
        descriptor = ParameterDescriptor(
            description=parameter.description,
            additional_constraints="" if parameter.pattern else parameter.expected(),
            read_only=parameter.change == "start",
            # Of whole numbers for a float, of lists and single texts, check() knows better than a fixed type.
            dynamic_typing=parameter.kind in ("float", "strings"),
        )
        if parameter.limits is not None:
            low, high = parameter.limits
            if parameter.kind == "int":
                steps = {"step": parameter.step} if parameter.step > 1 else {}
                descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), **steps)]
            else:
                descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        empty = parameter.kind == "strings" and not value
        if node.has_parameter(parameter.name):
            node.undeclare_parameter(parameter.name)
        node.declare_parameter(parameter.name, [""] if empty else value, descriptor, ignore_override=True)
        if empty:
            # rclpy takes an empty list for one of bytes; of strings it can only be set by its type.
            node.set_parameters([RosParameter(parameter.name, RosParameter.Type.STRING_ARRAY, [])])
    return problems


def read(node: Node) -> Values:
    """Return the values of all parameters, each in its own type."""
    return {name: parameter.check(node.get_parameter(name).value) for name, parameter in TABLE.items()}


def markdown() -> str:
    """Return the table of README."""
    lines = ["| parameter | type | default | change | meaning |", "|---|---|---|---|---|"]
    for p in PARAMETERS:
        default = str(p.default).lower() if p.kind == "bool" else p.default
        if p.kind == "strings":
            default = "[" + ", ".join(p.default) + "]"
        allowed = "" if p.kind in ("string", "bool", "strings") and not p.choices else f" ({p.expected()})"
        shown = f"`{default}`" if default != "" else "empty"
        kind = {"strings": "string array", "float": "double"}.get(p.kind, p.kind)
        lines.append(f"| `{p.name}` | {kind} | {shown} | {p.change} | {p.description}{allowed} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
