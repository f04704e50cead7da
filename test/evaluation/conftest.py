"""Small weights and small drives, shared by the tests of evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from drive_names import IMAGE, LABEL, START, STEP

from rt_seg_ros import zoo
from rt_seg_ros.bags import BagWriter
from rt_seg_ros.data.synth import SyntheticDrive
from rt_seg_ros.networks import create_network

Pairs = list[tuple[np.ndarray, np.ndarray]]


def save(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    zoo.save_weights(
        path,
        create_network("cgnet", num_classes=11, m=2, n=2).state_dict(),
        network="cgnet",
        options={"m": 2, "n": 2},
        num_classes=11,
        label_space="camvid11",
        mean=(100.0, 100.0, 100.0),
        std=(60.0, 60.0, 60.0),
        input_size=(96, 128),
        card={},
    )
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A small CGNet of random weights."""
    return save(tmp_path_factory.mktemp("weights") / "tiny.safetensors", 3)


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory) -> Path:
    """Another one."""
    return save(tmp_path_factory.mktemp("weights") / "other.safetensors", 4)


@pytest.fixture(scope="session")
def street() -> Pairs:
    """Eight rendered frames with their labels, 96x128."""
    drive = SyntheticDrive(5, 96, 128, rate=10.0)
    return [drive.render(i) for i in range(8)]


@pytest.fixture
def write_drive(tmp_path) -> Callable[..., Path]:
    """Return what writes frames as a drive, every tenth of a second."""

    def write(
        pairs: Pairs, name: str = "drive.mcap", labels: bool = True, keep: Callable[[int], bool] = lambda i: True
    ) -> Path:
        with BagWriter(tmp_path / name) as bag:
            for i, (image, truth) in enumerate(pairs):
                stamp = START + i * STEP
                bag.add_image(IMAGE, stamp, "camera", image)
                if labels and keep(i):
                    bag.add_label(LABEL, stamp, "camera", truth)
        return tmp_path / name

    return write
