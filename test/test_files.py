"""What is written aside: what was there before stays, or comes back."""

import os
import subprocess
import sys

import pytest

from rt_seg_ros.files import Aside, remove_leftovers


def test_what_cannot_be_put_back_is_kept_aside(tmp_path, monkeypatch):
    path = tmp_path / "b"
    path.write_text("old")
    aside = Aside(path)
    aside.make()
    made = aside.folder / "made"
    made.write_text("new")
    move = os.replace

    def replace(source, target):
        if target == path:
            raise OSError("the disk is gone")
        move(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="the disk is gone"):
        aside.put_in_place(made)
    aside.remove()
    assert not path.exists()
    assert [file.read_text() for file in aside.folder.iterdir() if file != made] == ["old"], "the only one"
    path.write_text("another")
    aside.remove()
    assert os.listdir(tmp_path) == ["b"]


def test_what_a_killed_process_left_goes_but_not_the_only_one_of_something(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f".b.{gone.pid}.part"
    left.mkdir()
    (left / "replaced").write_text("old")
    remove_leftovers(tmp_path)
    assert (left / "replaced").read_text() == "old"
    (tmp_path / "b").write_text("new")
    remove_leftovers(tmp_path)
    assert not left.exists()
