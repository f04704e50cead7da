"""A feed that segments nothing: it passes on what a node somewhere else publishes."""

from __future__ import annotations

from typing import Protocol

from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame
from rt_seg_ros.labels import LabelSpace, colour_of_its_own, list_label_spaces, load_label_space
from rt_seg_ros.web.board import Board
from rt_seg_ros.web.feed import Feed, size_in_words
from rt_seg_ros.web.picture import Picture
from rt_seg_ros.working_size import Size

_UNKNOWN_CLASSES = 32


class Remote(Protocol):
    """The node that is watched, however it is reached."""

    def start(self, relay: RelayFeed) -> None:
        """Begin to tell the relay what is published; returns at once."""
        ...

    def set_model(self, name: str, card: str) -> None:
        """Have the node change over to another model.

        :param card: name of its weights, by which the node's statistics call it
        :raises UserError: with the node's reason, where it refuses
        """
        ...

    def choose_camera(self, name: str) -> None:
        """Follow another of its cameras."""
        ...

    def close(self) -> None:
        """Follow it no longer."""
        ...


class RelayFeed(Feed):
    """Shows what a node publishes.

    :param models: what the node may be changed over to: ``name``, ``label`` for people, ``card`` (name of the weights)
    :param space: label space of the node's labels, where it is not one that comes with the package
    """

    def __init__(
        self, board: Board, remote: Remote, models: list[dict[str, str]], space: LabelSpace | None = None
    ) -> None:
        super().__init__(board)
        self._remote = remote
        board.update(models=models, can=["model", "camera"])
        self._space = space
        self._known_space = ""
        self._shown: tuple[Frame | None, bytes, int] | None = None

    @property
    def wanted(self) -> bool:
        """Whether somebody watches."""
        return self.board.watched

    def start(self) -> None:
        """See :meth:`Feed.start`."""
        self._remote.start(self)

    def close(self) -> None:
        """See :meth:`Feed.close`."""
        self._remote.close()

    def choose_model(self, name: str) -> None:
        """See :meth:`Feed.choose_model`."""
        card = next((model["card"] for model in self.board.state.models if model["name"] == name), None)
        if card is None:
            raise UserError(f"no model '{name}' is known here")
        self.board.switch(name)
        try:
            self._remote.set_model(name, card)
        except UserError:
            self.board.update(switching="")
            raise

    def choose_camera(self, name: str) -> None:
        """See :meth:`Feed.choose_camera`."""
        if name not in self.board.state.cameras:
            raise UserError(f"no camera '{name}'; there are: {', '.join(self.board.state.cameras)}")
        self._remote.choose_camera(name)

    # --- for the remote, from whatever thread ---------------------------------------------------------------------

    def tell(self, status: str, message: str = "") -> None:
        """Say how it stands with the node: see :class:`~rt_seg_ros.web.board.State`."""
        self.board.update(status=status, message=message)

    def tell_cameras(self, cameras: list[str], camera: str) -> None:
        """Name the node's cameras, and the one that is followed."""
        self.board.update(cameras=cameras, camera=camera)

    def switched(self, failure: str = "") -> None:
        """Say that the node has changed its model, or why it has not."""
        self.board.switch("", failure)

    def show(self, frame: Frame | None, labels: bytes, stamp_ns: int) -> None:
        """Show labels, a PNG of class ids, over the image that they are of."""
        self._shown = frame, labels, stamp_ns
        self.board.show(Picture(frame, labels, stamp_ns=stamp_ns, space=self.board.state.space))

    def report(
        self,
        *,
        model: str,
        label_space: str,
        details: str,
        image: Size,
        working: Size,
        total: float,
        network: float,
        wait: float,
        counts: tuple[int, int, int, int],
        age: float | None,
        stamp_ns: int,
    ) -> None:
        """Take in what the node says of a frame.

        :param model: name of its weights; ``label_space``: name of what they speak
        :param details: what computes it, in words
        :param image: (height, width) of the image; ``working``: of what the network sees
        :param total: this and the others as :meth:`rt_seg_ros.web.board.Board.record` has them
        :param stamp_ns: of the frame
        """
        former = self.board.state.space
        self._use_space(label_space)
        # Labels come before what tells their classes: the first ones of a label space are shown once more.
        if self.board.state.space != former and self._shown is not None and self._shown[2] == stamp_ns:
            self.show(*self._shown)
        models = self.board.state.models
        chosen = next((one["name"] for one in models if one["card"] == model), model)
        if self.board.state.switching == chosen:
            self.switched()
        self.board.update(model=chosen, model_details=details, size=size_in_words(image, working))
        self.board.record(total, network, wait, counts, age)

    def _use_space(self, name: str) -> None:
        if name == self._known_space:
            return
        self._known_space = name
        if self._space is not None and (name == self._space.name or name not in list_label_spaces()):
            self.board.use_label_space(self._space)
            return
        try:
            self.board.use_label_space(load_label_space(name))
        except UserError:
            self.board.use_space(name, [(i, f"class {i}", colour_of_its_own(i)) for i in range(_UNKNOWN_CLASSES)])
            self.board.update(message=f"label space '{name}' is not known here: give its file with --label-space")
