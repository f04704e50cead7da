"""Where pictures wait, in memory or in files, makes no difference to a run."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.training.checkpoint import read_checkpoint
from rt_seg_ros.training.distributed import World
from rt_seg_ros.training.loop import Trainer
from rt_seg_ros.training.recipe import Recipe
from rt_seg_ros.training.recipe_files import load_recipe
from rt_seg_ros.training.sources import HeldPictures, PicturesOnDisk, load_sources, open_sources

RECIPE = [
    "network={name: cgnet, options: {m: 2, n: 2, dropout: 0.2}}",
    "data.train=[{path: ., split: train}, {name: small, path: ., split: small, weight: 0.7}, "
    "{name: drives, weight: 0.4, synth: {seeds: [1, 2], frames: 2, size: [40, 56]}}]",
    "data.val=[{name: val, path: ., split: val}]",
    "augment={crop: [32, 48], scale: [0.5, 1.5], brightness: 0.3, contrast: 0.3, saturation: 0.3}",
    "loss.class_weights=computed",
    "schedule={batch: 4, max_steps: 5, warm_up_steps: 2}",
    "run={device: cpu, precision: fp32, ema: 0.9, validate_every: 1000, threads: 1}",
]
FILES = ("data.loading=workers", "run.workers=0")
WORKERS = ("data.loading=workers", "run.workers=2")


def recipe(*overrides: str) -> Recipe:
    return load_recipe("cgnet_camvid_paper", [*RECIPE, *overrides])


def trainer(streets: Path, out: Path, *overrides: str) -> Trainer:
    return Trainer(recipe(*overrides), streets, out)


@pytest.mark.parametrize("size", ["null", "[40, 64]"])
def test_files_and_memory_give_the_same_batches(streets, tmp_path, size):
    resize = f"data.size={size}"
    held = trainer(streets, tmp_path / "held", resize)
    assert all(isinstance(source, HeldPictures) for source in [*held.mixture.sources, *held.validation])
    for k, overrides in enumerate((FILES, WORKERS) if size == "null" else (FILES,)):
        read = trainer(streets, tmp_path / str(k), resize, *overrides)
        assert all(isinstance(source, PicturesOnDisk) for source in [*read.mixture.sources, *read.validation])
        for step in (0, 1, 2, 7, 8, 3):  # on, far ahead, and back
            for mine, theirs in zip(read.batch(step), held.batch(step), strict=True):
                assert torch.equal(mine, theirs)
        mine, theirs = read.learner.loss.main.weights, held.learner.loss.main.weights
        assert torch.equal(mine, theirs)  # computed class weights
        for source in read.mixture.sources:  # processes may be made otherwise than by forking
            copied, here = (s.gather(np.array([1, 0])) for s in (pickle.loads(pickle.dumps(source)), source))
            assert all(map(torch.equal, copied, here))
        read.feed.close()


def test_a_run_from_files_is_that_from_memory_also_continued(streets, tmp_path):
    assert trainer(streets, tmp_path / "held").run()

    class StopsAtThree(Trainer):
        def train_step(self) -> torch.Tensor:
            loss = super().train_step()
            if self.step == 3:
                self.stop()
            return loss

    out = tmp_path / "read"
    assert not StopsAtThree(recipe(*WORKERS), streets, out).run()
    assert Trainer(recipe(*WORKERS), streets, out, checkpoint=read_checkpoint(out)).run()
    held, read = read_checkpoint(tmp_path / "held"), read_checkpoint(out)
    assert held["step"] == read["step"] == 5 and held["best"] == read["best"]
    for key in ("network", "average"):
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(read[key][k])) for k, v in held[key].items())


def test_what_fits_is_held_the_smallest_first(streets):
    train = 6 * 48 * 64 * 4
    small = 3 * 40 * 56 * 4
    space = load_label_space("camvid11")

    def held(*overrides: str) -> list[bool]:
        data = load_recipe("cgnet_camvid", [RECIPE[1].partition(", {name: drives")[0] + "]", *overrides]).data
        return [source.held for source in open_sources(data.train, streets, space, data, data.size)]

    def gib(count: int) -> str:
        return f"data.memory_gib={count / 2**30}"

    assert held() == [True, True] and held(gib(train + small)) == [True, True]
    assert held(gib(train + small - 1)) == [False, True] and held(gib(small - 1)) == [False, False]
    assert held(gib(train + small - 1), "data.size=[24, 32]") == [True, True]
    assert held("data.loading=memory", "data.memory_gib=0") == [True, True]
    assert held("data.loading=workers") == [False, False]


def test_what_turns_out_larger_than_its_first_picture_is_not_held(tmp_path, camvid_writer):
    root = camvid_writer(tmp_path, {"one": (5, (40, 56)), "two": (1, (480, 560))})
    for kind in ("", "annot"):
        (root / f"two{kind}" / "0.png").rename(root / f"one{kind}" / "9.png")
    room = 6 * 480 * 560 * 4
    for enough in (True, False):
        words = ["data.train=[{path: ., split: one}]", f"data.memory_gib={(room - (not enough)) / 2**30}"]
        data = load_recipe("cgnet_camvid", words).data
        opened = open_sources(data.train, root, load_label_space("camvid11"), data, None)
        assert opened[0].held
        (source,) = load_sources(opened, (0, 0, 0), World(torch.device("cpu")))
        assert isinstance(source, HeldPictures) == enough and source.size == (480, 560) and len(source) == 6


def test_what_one_source_takes_more_is_not_there_for_the_next(tmp_path, camvid_writer):
    room = 0
    for name in ("one", "two", "three"):
        root = camvid_writer(tmp_path, {name: (3, (40, 56)), f"large_{name}": (1, (160, 224))})
        for kind in ("", "annot"):
            (root / f"large_{name}{kind}" / "0.png").rename(root / f"{name}{kind}" / "9.png")
        room += 4 * 40 * 56 * 4
    more = 4 * (160 * 224 - 40 * 56) * 4
    sections = ", ".join(f"{{path: ., split: {name}}}" for name in ("one", "two", "three"))
    for enough in (0, 1, 2, 3):
        words = [f"data.train=[{sections}]", f"data.memory_gib={(room + enough * more) / 2**30}"]
        data = load_recipe("cgnet_camvid", words).data
        opened = open_sources(data.train, root, load_label_space("camvid11"), data, None)
        assert all(source.held for source in opened)
        sources = load_sources(opened, (0, 0, 0), World(torch.device("cpu")))
        assert sum(isinstance(source, HeldPictures) for source in sources) == enough


def test_drives_are_not_learnt_in_classes_that_only_have_their_name(streets):
    space = load_label_space("camvid11")
    backwards = replace(space, classes=tuple(replace(c, id=10 - c.id) for c in reversed(space.classes)))
    assert backwards.names == space.names[::-1]
    data = load_recipe("cgnet_camvid").data
    with pytest.raises(UserError, match="rendered drives have the classes of camvid11"):
        open_sources(data.train, streets, backwards, data, None)


@pytest.mark.parametrize("loading", ["memory", "workers"])
def test_beyond_the_edge_of_smaller_pictures_is_the_mean_and_void(streets, tmp_path, loading, camvid_writer):
    root = camvid_writer(tmp_path / "mixed", {"one": (1, (40, 56)), "two": (1, (48, 44))})
    for kind in ("", "annot"):
        (root / f"two{kind}" / "0.png").rename(root / f"one{kind}" / "1.png")
    data = load_recipe("cgnet_camvid", ["data.train=[{path: ., split: one}]", f"data.loading={loading}"]).data
    opened = open_sources(data.train, root, load_label_space("camvid11"), data, None)
    (source,) = load_sources(opened, (10.4, 20.6, 30.0), World(torch.device("cpu")))
    assert source.size == (48, 56) and source.sizes.tolist() == [[40, 56], [48, 44]]
    images, labels = source.gather(np.array([1, 0]))
    assert images.shape == (2, 3, 48, 56)
    for beyond in (images[0, :, :, 44:], images[1, :, 40:]):
        assert (beyond == torch.tensor([10, 21, 30])[:, None, None]).all()
    assert (labels[0, :, 44:] == 255).all() and (labels[1, 40:] == 255).all() and (labels[1, :40] != 255).any()
    pixels = source.class_pixels(11)
    assert pixels.sum() == (labels != 255).sum().item() / 2


@pytest.mark.parametrize("overrides", [FILES, WORKERS], ids=["here", "workers"])
def test_a_file_that_goes_missing_ends_the_run_by_name(tmp_path, camvid_writer, overrides):
    root = camvid_writer(tmp_path / "data", {"train": (4, (48, 64)), "small": (1, (48, 64)), "val": (1, (48, 64))})
    run = trainer(root, tmp_path / "run", *overrides)
    (root / "train" / "2.png").unlink()
    with pytest.raises(UserError, match=r"train/2\.png cannot be read") as raised:
        run.run()
    kept = f"step {run.step} is kept" if run.step else "there is no checkpoint"
    assert kept in str(raised.value) and (tmp_path / "run" / "last.pt").exists() == (run.step > 0)


def test_what_would_spoil_a_run_is_told_before_any_step_also_of_files(tmp_path, camvid_writer):
    root = camvid_writer(tmp_path / "data", {"train": (4, (48, 64)), "small": (1, (48, 64)), "val": (1, (48, 64))})
    (root / "train" / "1.png").write_bytes((root / "small" / "0.png").read_bytes()[:200])
    (root / "trainannot" / "3.png").write_bytes((root / "train" / "3.png").read_bytes())
    for loading in ("memory", "workers"):
        with pytest.raises(UserError) as raised:
            trainer(root, tmp_path / "run", f"data.loading={loading}")
        told = str(raised.value)
        assert "train/1.png cannot be read" in told and "trainannot/3.png is no label image" in told
        assert not (tmp_path / "run").exists()


def test_interrupt_ends_the_reading_processes_too(streets, tmp_path):
    """Ctrl-C reaches all processes of a terminal at once."""
    out = tmp_path / "run"
    words = ["cgnet_camvid_paper", "--data", str(streets), "--out", str(out), *RECIPE, *WORKERS]
    words += ["schedule.max_steps=100000", "run.checkpoint_minutes=0.0001"]
    run = subprocess.Popen(
        [sys.executable, "-m", "rt_seg_ros.cli", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        end = time.monotonic() + 120
        while not (out / "previous.pt").exists() and run.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert len(children(run.pid)) >= 2
        os.killpg(run.pid, signal.SIGINT)
        told = run.communicate(timeout=60)[0]
    finally:
        run.kill()
    assert run.returncode == 3 and told.count("stopping after this step") == 1, told
    assert "Traceback" not in told and read_checkpoint(out)["step"] > 0
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)  # nobody of the session is left


class LosesAReader(Trainer):
    """The system kills a reading process in the midst of the third step, as it does where memory is short."""

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        batch = super().batch(step)
        if step == 2:
            multiprocessing.active_children()[0].kill()
            end = time.monotonic() + 1
            while time.monotonic() < end:  # the signal of its death is heard between these
                time.sleep(0.01)
        return batch


def test_a_reading_process_that_is_killed_costs_no_step(streets, tmp_path):
    out = tmp_path / "run"
    long = (*WORKERS, "schedule.max_steps=9")
    with pytest.raises(UserError, match=r"ended \(.*Killed.*run\.workers, or 0; step 3 is kept: .*--resume"):
        LosesAReader(recipe(*long), streets, out).run()
    assert read_checkpoint(out)["step"] == 3
    assert Trainer(recipe(*long), streets, out, checkpoint=read_checkpoint(out)).run()  # it heard of no death
    assert trainer(streets, tmp_path / "whole", *long).run()
    ours, theirs = (read_checkpoint(path)["network"] for path in (out, tmp_path / "whole"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_reading_process_that_is_killed_before_the_last_step_ends_takes_nothing(streets, tmp_path):
    assert LosesAReader(recipe(*WORKERS, "schedule.max_steps=3"), streets, tmp_path / "run").run()
    assert trainer(streets, tmp_path / "next", *WORKERS).run()


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


class _Two(World):
    """Two processes in one, for what only looks through files."""

    size = 2

    def together(self, action):
        first = action()
        self.rank = 1
        second = action()
        self.rank = 0
        return [first, second]


def test_labels_that_are_all_void_are_refused_also_where_each_process_sees_a_part(tmp_path, camvid_writer):
    root = camvid_writer(tmp_path / "data", {"train": (4, (48, 64)), "small": (1, (48, 64)), "val": (1, (48, 64))})
    for path in (root / "trainannot").iterdir():
        cv2.imwrite(str(path), np.full((48, 64), 11, np.uint8))
    data = recipe(*FILES).data
    opened = open_sources(data.train[:1], root, load_label_space("camvid11"), data, None)
    for world in (World(torch.device("cpu")), _Two(torch.device("cpu"))):
        with pytest.raises(UserError, match="void"):
            load_sources(opened, data.mean, world)
