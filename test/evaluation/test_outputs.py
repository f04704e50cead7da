"""What an evaluation writes, where it is broken off: what was there before stays, and what is whole is kept."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager

import cv2
import numpy as np
import pytest

from rt_seg_ros.errors import UserError
from rt_seg_ros.evaluation.outputs import Outputs, Sink
from rt_seg_ros.evaluation.stored import LabelFolder

LABELS = np.zeros((8, 8), np.uint8)


class Written(Sink):
    """A file aside, moved into place; at its last entry it may raise."""

    def __init__(self, folder, what, error=None, begun=None):
        self.what, self.path, self._aside = what, folder / what, folder / f".{what}.part"
        self._error, self._begun = error, begun

    @contextmanager
    def context(self):
        self._aside.write_text("half")
        try:
            yield
        except BaseException:
            self._aside.unlink()
            raise
        self._aside.rename(self.path)

    def take(self, entry):
        if entry == 2 and self._begun is not None:
            self._begun.wait(5)
        if entry == 2 and self._error is not None:
            raise self._error


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def own_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("background")]


@pytest.mark.parametrize("first", ["bad", "good"])
def test_a_sink_that_fails_at_the_end_does_not_take_the_others_with_it(first, tmp_path):
    leave = threading.Event()  # the error comes when nothing is handed on any more
    bad, good = Written(tmp_path, "bad", MemoryError("at the end"), leave), Written(tmp_path, "good")
    sinks = [bad, good] if first == "bad" else [good, bad]
    with pytest.raises(MemoryError, match="at the end"), Outputs(*sinks) as outputs:
        for entry in range(3):
            outputs.take(entry)
        leave.set()
    assert names(tmp_path) == ["good"]
    assert good.complete and not bad.complete
    assert not own_threads()


def test_the_first_of_several_errors_is_raised(tmp_path):
    leave = threading.Event()
    sinks = [Written(tmp_path, name, MemoryError(name), leave) for name in ("one", "other")]
    with pytest.raises(MemoryError, match="one"), Outputs(*sinks) as outputs:
        for entry in range(3):
            outputs.take(entry)
        leave.set()
    assert not names(tmp_path) and not own_threads()


def test_ctrl_c_while_the_last_are_waited_for_leaves_nothing(tmp_path):
    sinks = Written(tmp_path, "one", KeyboardInterrupt()), Written(tmp_path, "two")
    with pytest.raises(KeyboardInterrupt), Outputs(*sinks) as outputs:
        outputs.take(2)
    assert not names(tmp_path) and not own_threads()


@pytest.mark.parametrize("interrupted_after", [1, 2])
def test_ctrl_c_while_labels_are_moved_into_place(interrupted_after, tmp_path, monkeypatch):
    with LabelFolder(tmp_path / "labels") as folder:
        folder.add("old", 0, 0, "", LABELS)
    assert names(tmp_path) == ["labels"]
    move, moves = os.replace, []

    def replace(source, target):
        move(source, target)
        moves.append(target)
        if len(moves) == interrupted_after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", replace)
        with LabelFolder(tmp_path / "labels") as folder:
            folder.add("new", 0, 0, "", LABELS)
    assert names(tmp_path) == ["labels"]
    assert names(tmp_path / "labels") == (["old.png"] if interrupted_after == 1 else ["new.png"])


def test_a_folder_with_anything_else_in_it_is_not_replaced(tmp_path):
    with LabelFolder(tmp_path / "labels") as folder:
        folder.add("own", 0, 0, "", LABELS)
    assert (cv2.imread(str(tmp_path / "labels" / "own.png"), cv2.IMREAD_UNCHANGED) == LABELS).all()
    cv2.imwrite(str(tmp_path / "labels" / "other.png"), LABELS)
    with pytest.raises(UserError, match="labels is not replaced"), LabelFolder(tmp_path / "labels"):
        pass
    assert names(tmp_path) == ["labels"] and names(tmp_path / "labels") == ["other.png", "own.png"]


def test_former_labels_are_there_until_the_new_ones_are(tmp_path, monkeypatch):
    with LabelFolder(tmp_path / "labels") as folder:
        folder.add("old", 0, 0, "", LABELS)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", interrupted)
        with LabelFolder(tmp_path / "labels") as folder:
            folder.add("new", 0, 0, "", LABELS)
    assert names(tmp_path / "labels") == ["new.png"]
    with LabelFolder(tmp_path / "labels") as folder:  # what was left is removed
        folder.add("newer", 0, 0, "", LABELS)
    assert names(tmp_path) == ["labels"] and names(tmp_path / "labels") == ["newer.png"]
