"""The node: managed lifecycle, live parameters, diagnostics.

Three threads: the executor's answers services and takes messages in, the worker's segments, and a third lives only
while another model is prepared. What changes what the node consists of is done one after another, also where an
executor has several threads, or the process that holds the node calls it from a thread of its own.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.lifecycle import State as LifecycleState
from rclpy.parameter import Parameter as RosParameter

from rt_seg_ros.backends import check_choice
from rt_seg_ros.errors import UserError, did_you_mean, in_words
from rt_seg_ros.graphs.store import abandon_graphs
from rt_seg_ros.memory import keep_freed_memory
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.ros import diagnostics, logs, messages, names, parameters, qos, standalone
from rt_seg_ros.ros.camera import Camera, Serving
from rt_seg_ros.ros.outputs import Drawing, Outputs
from rt_seg_ros.ros.parameters import TABLE, Values
from rt_seg_ros.ros.preparation import Preparation
from rt_seg_ros.ros.watchdog import watchdog
from rt_seg_ros.ros.worker import MOST_TOGETHER, Worker
from rt_seg_ros.zoo import find_model

NODE_NAME = "segmentation"
_DIAGNOSTICS_PERIOD = 1.0
#: Size (height, width) of the first run of a model whose card names none, before any image came.
_USUAL_SIZE = (360, 480)
#: States of the lifecycle between transitions, one of which loads the model.
_AT_REST = ("unconfigured", "inactive", "active", "finalized")
#: Seconds for which a change of parameters waits where another thread has the turn then: it is soon done.
_SHORTLY = 0.1

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Transport, and (name, topic) of each camera.
_Layout = tuple[str, tuple[tuple[str, str], ...]]


def _in_turn(
    method: Callable[Concatenate[SegmentationNode, _P], _R],
) -> Callable[Concatenate[SegmentationNode, _P], _R]:
    """Have a method of the node wait until others like it are done, whatever thread they were called from."""

    @wraps(method)
    def waiting(self: SegmentationNode, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        this = threading.current_thread()
        try:
            with watchdog.paused(), self._turn, logs.working_for(self.get_logger()):
                former, self._at_turn = self._at_turn, this
                try:
                    return method(self, *args, **kwargs)
                finally:
                    self._at_turn = former
        finally:
            if self._at_turn is not this and (self._start_is_due or self._apply_is_due or self._prepared):
                self._due.trigger()  # the executor may have found no turn to be had meanwhile

    return waiting


class SegmentationNode(LifecycleNode):
    """Camera topics in; labels, masks, overlays and statistics out. See README for its topics and parameters.

    A change of parameters goes this way: rclpy asks ``_on_set_parameters``, which checks it and sets
    ``_apply_is_due``; ``_apply``, on the executor's thread, carries out at once what costs nothing (``_serve``), and
    has the rest prepared (``_prepare``, on the preparation's thread); ``_adopt``, on the executor's again, serves what
    was prepared, or, where that failed, ``_revert`` puts the parameters back.

    ``_segmenter`` is what serves now, ``_target`` what will once it is prepared, ``_serving`` what the worker reads,
    put in its place as a whole, ``_applied`` the parameters as they were last carried out. Who changes any of these
    has ``_turn``.

    :param name: the node's name, unless remapped
    """

    def __init__(self, name: str = NODE_NAME, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        # No thread that is waited for may take it: neither the worker's nor the preparation's does.
        self._turn = threading.RLock()
        self._at_turn: threading.Thread | None = None
        self._applied: Values | None = None  # what the parameters said when they were last carried out
        self._start_is_due = False
        self._segmenter: Segmenter | None = None
        self._target: SegmenterConfig | None = None  # what is served, or prepared to be
        self._serving: Serving | None = None
        self._cameras: list[Camera] = []
        self._layout: _Layout | None = None
        self._condition = threading.Condition()
        self._worker: Worker | None = None
        self._active = False
        self._error = ""
        self._failed_change = ""
        self._reverting = False
        self._masks_before: list[str] = []  # the masks that go with what is served, while another is prepared
        # What is due waits for an executor, which need not be there yet, and is no task of its: those are run beside
        # the node's callbacks by one that has several threads.
        self._apply_is_due = False
        self._prepared: deque[tuple[SegmenterConfig, Segmenter | Exception]] = deque()
        self._due = self.create_guard_condition(partial(self._if_turn_is_free, self._catch_up))
        self._preparation: Preparation[SegmenterConfig, Segmenter] = Preparation(self._prepare, self._on_prepared)

        self._problems = parameters.declare(self)
        for problem in self._problems.values():
            self.get_logger().error(problem)
        for unknown in parameters.unknown(self._parameter_overrides):
            hint = did_you_mean(unknown, TABLE)
            self.get_logger().warning(f"there is no parameter '{unknown}'{hint}: it has no effect")
        self.add_on_set_parameters_callback(self._on_set_parameters)

        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # By the steady clock: simulated time may stand still, and then most of all the node must be heard.
        self._timer = self.create_timer(
            _DIAGNOSTICS_PERIOD,
            partial(self._if_turn_is_free, self._on_timer),
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._guard_transitions()
        self._start_is_due = self.get_parameter("autostart").value
        if self._start_is_due:
            self._due.trigger()
        else:
            self.get_logger().info(
                f"unconfigured: waiting for a transition (ros2 lifecycle set {self._full_name()} configure), or start "
                "with autostart:=true"
            )
        logs.add(self.get_logger())  # last: what fails before leaves nothing behind

    # --- lifecycle ------------------------------------------------------------------------------------------------

    def autostart(self) -> None:
        """Configure and activate; where that fails the node stays as far as it came, and says why."""
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    @_in_turn
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and create the publishers."""
        return self._attempt("configure", self._configure, self._unload)

    @_in_turn
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras and start to segment."""
        return self._attempt("activate", self._activate, self._stop)

    @_in_turn
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop segmenting; the model stays loaded."""
        self._stop()
        return SUCCESS

    @_in_turn
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the model and the publishers."""
        self._unload()
        self._error = self._failed_change = ""
        return SUCCESS

    @_in_turn
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of everything, from whatever state."""
        self._unload()
        return SUCCESS

    @_in_turn
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of everything, so that the node can be configured again."""
        self._unload()
        return SUCCESS

    def destroy_node(self) -> None:
        """Let go of everything, the node itself too."""
        if (at_turn := self._at_turn) is not None:
            abandon_graphs(at_turn, later=False)  # or what it configures would have to be waited for
        with self._turn:
            self._unload()
        logs.remove(self.get_logger())
        super().destroy_node()

    def _attempt(self, what: str, action: Callable[[], None], undo: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            action()
        except Exception as error:
            self._error = " ".join(in_words(error).split())
        else:
            self._error = ""
            return SUCCESS
        undo()
        if not self.context.ok():  # Ctrl-C while a model loads: nobody hears more
            return FAILURE
        again = f"ros2 lifecycle set {self._full_name()} {what}"
        self.get_logger().error(f"cannot {what}: {self._error} [to try again: {again}]")
        return FAILURE

    def _configure(self) -> None:
        if self._problems:
            raise UserError("; ".join(self._problems.values()))
        values = parameters.read(self)
        layout = self._cameras_layout(values)
        config = parameters.segmenter_config(values)
        parameters.check_together(values, config)
        self.get_logger().info(f"loading model '{config.model}'")
        segmenter = Segmenter(config, fall_back=True)
        segmenter.backend.live = True
        parameters.check_masks(values, segmenter.label_space)
        self._warm_up(segmenter)
        self._target = config
        self._failed_change = ""
        self._create_cameras(layout)
        if messages.label_info_type() is None:
            self.get_logger().info("vision_msgs is not installed: ~/label_info is not published")
        self._applied = values
        self._serve(segmenter, values)

    def _activate(self) -> None:
        self._do_what_is_due()  # also without an executor
        values = parameters.read(self)
        layout = self._cameras_layout(values)
        if layout != self._layout:
            self._create_cameras(layout)
            assert self._segmenter is not None
            self._serve(self._segmenter, parameters.with_masks_of(self._segmenter.label_space, values))
        for camera in self._cameras:
            camera.activate()
        self._worker = Worker(self._cameras, self._condition, self._present_serving)
        self._active = True
        self._follow_infos()

    def _stop(self) -> None:
        self._active = False
        for camera in self._cameras:
            camera.deactivate()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _unload(self) -> None:
        self._stop()
        self._preparation.close(abandon_graphs)  # which are what preparing takes longest for
        self._prepared.clear()
        self._close_cameras()
        self._segmenter = self._serving = self._target = None

    def _guard_transitions(self) -> None:
        """Make a transition that the present state does not have fail, and not end the node.

        rclpy raises for one out of the service's callback, which would leave the client without an answer too.
        """
        service = self._service_change_state
        change_state = service.callback

        def guarded(request: Any, response: Any) -> Any:
            try:
                return change_state(request, response)
            except Exception as error:
                asked = request.transition.label or request.transition.id
                self.get_logger().warning(f"transition '{asked}' is not possible in state '{self._state()}': {error}")
                response.success = False
                return response

        service.callback = guarded

    def _state(self) -> str:
        return str(self._state_machine.current_state[1])

    def _full_name(self) -> str:
        return names.full_name(self.get_namespace(), self.get_name())

    # --- cameras --------------------------------------------------------------------------------------------------

    def _cameras_layout(self, values: Values) -> _Layout:
        """Return what the parameters say of the cameras; topics are full names as given, not remapped."""
        given, topics = names.resolve_topics(self, values["camera_topics"])
        return values["image_transport"], tuple(
            zip(names.camera_names(topics, values["camera_names"]), given, strict=True)
        )

    def _create_cameras(self, layout: _Layout) -> None:
        qos.check_overrides(self, [])  # their values, before rclpy meets them, which names no topic
        self._close_cameras()
        transport, cameras = layout
        for name, topic in cameras:
            prefix = "~" if len(cameras) == 1 else f"~/{name}"
            outputs = Outputs(self, prefix)
            camera = Camera(self, name, topic, transport, outputs, self._condition, self._if_turn_is_free)
            self._cameras.append(camera)
        self._layout = layout
        topics = [topic for camera in self._cameras for topic in camera.topics()]
        # Of masks the topics change live; an override of one that is not there now may be there later.
        for override in qos.check_overrides(self, topics):
            if "/mask/" not in override:
                self.get_logger().warning(f"'{override}' has no effect: this node has no such topic or policy")

    def _close_cameras(self) -> None:
        for camera in self._cameras:
            camera.close()
        self._cameras = []
        self._layout = None

    def _image_sizes(self) -> set[tuple[int, int]]:
        """Return (height, width) of the images that the cameras have, as far as one came."""
        kinds = (camera.kind for camera in self._cameras)
        return {(kind.height, kind.width) for kind in kinds if kind is not None}

    def _follow_infos(self) -> None:
        assert self._segmenter is not None
        for camera in self._cameras:
            camera.follow_info(self._segmenter.config.output_resolution != "input")

    # --- what frames are served with --------------------------------------------------------------------------------

    def _present_serving(self) -> Serving:
        """Return what the next frame is served with; on the worker's thread."""
        logs.work_for(self.get_logger())
        assert self._serving is not None
        return self._serving

    def _serve(self, segmenter: Segmenter, values: Values) -> None:
        """Serve from the next frame on with this segmenter and these parameters."""
        former, self._segmenter = self._segmenter, segmenter
        space = segmenter.label_space
        tokens = names.class_tokens(space.names)
        chosen = {space.id_of(name): tokens[name] for name in values["mask_classes"]}
        threshold = segmenter.config.confidence_threshold
        for camera in self._cameras:
            camera.mailbox.limit_rate(values["max_rate"])
            camera.outputs.announce(space, threshold, chosen)
        self._serving = Serving(
            segmenter,
            Drawing(values["overlay_alpha"], values["overlay_legend"]),
            values["lazy"],
            values["max_image_pixels"],
            values["sample_bits"],
        )
        if self._active:
            self._follow_infos()
        if former is None or former.backend is not segmenter.backend:
            self.get_logger().info(
                f"serving model '{segmenter.card.name}' ({space.name}) by {segmenter.backend_name} "
                f"on {segmenter.device}, {segmenter.precision}"
            )

    def _warm_up(self, segmenter: Segmenter, hand_over: bool = True) -> None:
        """Run a segmenter on such frames as cameras have, so that none pays for the first run of its kind.

        :param hand_over: see :meth:`Segmenter.warm_up`
        """
        kinds = {camera.kind for camera in self._cameras if camera.kind is not None}
        for kind in kinds:
            segmenter.warm_up(*kind, min(len(self._cameras), MOST_TOGETHER), hand_over)
        if not kinds:
            segmenter.warm_up(*(segmenter.card.input_size or _USUAL_SIZE), hand_over=hand_over)

    def _prepare(self, config: SegmenterConfig) -> Segmenter:
        """Build a segmenter; on the preparation's thread."""
        logs.work_for(self.get_logger())
        present = self._segmenter
        segmenter = present.reconfigured(config) if present is not None else Segmenter(config, fall_back=True)
        segmenter.backend.live = True
        # A size that the backend cannot do is refused: it goes on serving the one that it can.
        shared = present is not None and present.backend is segmenter.backend
        self._warm_up(segmenter, hand_over=not shared)
        return segmenter

    def _on_prepared(self, config: SegmenterConfig, result: Segmenter | Exception) -> None:
        """Hand what was prepared to the executor; on the preparation's thread."""
        self._prepared.append((config, result))
        self._due.trigger()

    def _if_turn_is_free(self, action: Callable[[], None]) -> None:
        """Do it, unless another thread is changing the node, as by loading a model: the executor is not to wait.

        That thread triggers ``_due`` when it is done, which calls for the skipped work again.
        """
        if self._turn.acquire(blocking=False):
            try:
                action()
            finally:
                self._turn.release()

    @_in_turn
    def _catch_up(self) -> None:
        """Do what is due."""
        if self._start_is_due:
            self._start_is_due = False
            if self._state() == "unconfigured":  # nobody was faster
                self.autostart()
        self._do_what_is_due()

    def _do_what_is_due(self) -> None:
        if self._apply_is_due:  # what was asked for last comes first
            self._apply()
        while self._prepared:
            self._adopt(*self._prepared.popleft())

    def _adopt(self, config: SegmenterConfig, result: Segmenter | Exception) -> None:
        if self._segmenter is None or self._target is None or not config.same_but_threshold(self._target):
            return  # unloaded, or something else was asked for meanwhile
        if isinstance(result, Segmenter):
            try:
                values = parameters.read(self)
                parameters.check_masks(values, result.label_space)
            except UserError as error:
                result = error
        if isinstance(result, Exception):
            self._revert(result)
            return
        self._failed_change = ""
        result = result.reconfigured(self._target)  # the threshold may have changed meanwhile
        self._serve(result, values)
        size = diagnostics.working_size(result, self._image_sizes())
        self.get_logger().info(f"changed over to model '{result.card.name}', {size}")

    def _revert(self, reason: Exception) -> None:
        """Put the parameters back to what is served."""
        assert self._segmenter is not None and self._target is not None
        served = self._segmenter.config
        changed = {
            name: value
            for name, value in parameters.config_values(served).items()
            if value != getattr(self._target, name)
        }
        self._failed_change = " ".join(in_words(reason).split())
        self._target = served
        self._reverting = True
        try:
            back_to = [RosParameter(name, value=value) for name, value in changed.items()]
            # Masks of classes that came with the failed change go with it.
            masks = parameters.read(self)["mask_classes"]
            if not set(masks) <= set(self._segmenter.label_space.names):
                masks = changed["mask_classes"] = self._masks_before
            back_to.append(RosParameter("mask_classes", RosParameter.Type.STRING_ARRAY, masks))
            self.set_parameters_atomically(back_to)
        finally:
            self._reverting = False
        back = ", ".join(f"{name}: {value!r}" for name, value in changed.items())
        self.get_logger().error(f"the change failed: {self._failed_change}; back to {back}")

    # --- parameters -----------------------------------------------------------------------------------------------

    def _on_set_parameters(self, changes: Sequence[RosParameter]) -> SetParametersResult:
        """Check a change as a whole; refuse it while a thread has the turn that may be loading a model.

        The executor, whose thread this mostly is, is not to wait. What the node sets itself, it sets in its own turn.
        """
        if not any(change.name in TABLE for change in changes):
            return SetParametersResult(successful=True)  # rclpy's own: a subscription may declare its QoS at any time
        if not self._turn.acquire(timeout=_SHORTLY if self._state() in _AT_REST else 0):
            reason = f"another thread has the node in hand (state: {self._state()}): nothing was set, try again"
            return SetParametersResult(successful=False, reason=reason)
        try:
            return self._accept(changes)
        finally:
            self._turn.release()

    @_in_turn
    def _accept(self, changes: Sequence[RosParameter]) -> SetParametersResult:
        """Check a change as a whole. It is carried out when rclpy has set the values: others may refuse them yet."""
        if not self._reverting:
            try:
                self._check_change({p.name: p.value for p in changes if p.name in TABLE})
            except Exception as error:
                return SetParametersResult(successful=False, reason=in_words(error))
            if any(p.name in TABLE and TABLE[p.name].change == "prepared" for p in changes):
                self._failed_change = ""  # of the change before this one
        for change in changes:
            self._problems.pop(change.name, None)
        self._apply_is_due = True
        return SetParametersResult(successful=True)

    def _check_change(self, changes: Mapping[str, Any]) -> None:
        """Check new values of parameters, each by itself and all together with those that stay.

        :raises UserError: with the reason
        """
        checked = {name: TABLE[name].check(value) for name, value in changes.items()}
        if "camera_topics" in checked:
            names.resolve_topics(self, checked["camera_topics"])
        names.check_camera_names(checked.get("camera_names", ()))
        present = parameters.read(self)
        if self._active:
            for name, value in checked.items():
                if TABLE[name].change == "inactive" and value != present[name]:
                    raise UserError(f"{name} cannot change while the node is active: deactivate first")
        if self._segmenter is None or self._target is None:
            return  # one value may not fit another that is still to be set: configure sees to that
        values = {**present, **checked}
        parameters.segmenter_config(values).check_sides()
        config = self._config_of(values)
        parameters.check_together(values, config)
        if checked.keys() & {"backend", "device", "precision"}:
            check_choice(config.backend, config.device, config.precision)
        space = self._segmenter.label_space
        if not config.same_network(self._segmenter.config):
            card = find_model(config.model, config.label_space, config.weights, config.allow_random_weights)
            space = card.load_label_space()
        if checked.keys() & {"mask_classes", "model", "weights", "label_space"}:
            parameters.check_masks(values, space)

    def _config_of(self, values: Values) -> SegmenterConfig:
        """Return the config that values mean; of input_height and input_width, one alone changes nothing yet."""
        config = parameters.segmenter_config(values)
        if self._target is not None and bool(config.input_height) != bool(config.input_width):
            config = replace(config, input_height=self._target.input_height, input_width=self._target.input_width)
        return config

    def _apply(self) -> None:
        """Carry out what the parameters say now."""
        self._apply_is_due = False
        if self._segmenter is None or self._target is None:
            return
        before = self._applied
        values = self._applied = parameters.read(self)
        config = self._config_of(values)
        if bool(values["input_height"]) != bool(values["input_width"]):
            self.get_logger().info(
                f"input_height is {values['input_height']} and input_width {values['input_width']}: "
                "takes effect when both are set, or neither"
            )
        # What costs nothing does not wait for what does.
        served = self._segmenter
        if config.confidence_threshold != served.config.confidence_threshold:
            served = served.reconfigured(replace(served.config, confidence_threshold=config.confidence_threshold))
        self._serve(served, parameters.with_masks_of(served.label_space, values))
        former, self._target = self._target, config
        if config == served.config:
            self._preparation.cancel()
        elif not config.same_but_threshold(former):
            if before is not None and former.same_but_threshold(served.config):  # no other change is under way
                self._masks_before = before["mask_classes"]
            self._preparation.request(config)

    # --- diagnostics ----------------------------------------------------------------------------------------------

    @_in_turn
    def _on_timer(self) -> None:
        values = parameters.read(self)
        if self._segmenter is not None and values != self._applied:
            self._apply()  # rclpy stores values after they were accepted, and a thread may have come between
        if self._active:
            for camera in self._cameras:
                camera.rematch()
        report = DiagnosticArray()
        report.header.stamp = self.get_clock().now().to_msg()
        name = self._full_name().lstrip("/")
        hardware_id = self._segmenter.device if self._segmenter is not None else ""
        report.status.append(self._model_status(f"{name}: model", hardware_id))
        limits = diagnostics.Limits(values["input_timeout"], values["max_age"])
        for camera in self._cameras:
            report.status.append(camera.status(f"{name}: camera {camera.name}", hardware_id, limits, self._active))
        self._diagnostics.publish(report)

    def _model_status(self, name: str, hardware_id: str) -> DiagnosticStatus:
        segmenter, target = self._segmenter, self._target
        facts: list[tuple[str, object]] = []
        trouble = preparing = ""
        if segmenter is not None:
            facts = diagnostics.model_facts(segmenter, self._image_sizes())
            trouble = segmenter.backend.trouble
            if self._preparation.busy and target is not None and target != segmenter.config:
                preparing = f"model '{target.model}'"
        return diagnostics.model_status(
            name,
            hardware_id,
            self._state(),
            facts,
            error=self._error,
            failed_change=self._failed_change,
            trouble="; ".join(filter(None, [trouble, names.twin(self)])),
            preparing=preparing,
        )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop.

    :param args: the command line, the program first; by default the process's
    :return: exit status
    """
    keep_freed_memory()
    return standalone.run("segmentation_node", SegmentationNode, args)


if __name__ == "__main__":
    sys.exit(main())
