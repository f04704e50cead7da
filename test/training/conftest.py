"""Small data sets that the training's tests learn from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

Splits = dict[str, tuple[int, tuple[int, int]]]


def write_camvid(root: Path, splits: Splits) -> Path:
    """Write a data set in CamVid's layout: noise in two colours that the labels follow, and some void.

    :param splits: of each, how many pictures of which height and width
    """
    rng = np.random.default_rng(0)
    for split, (count, (height, width)) in splits.items():
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        for i in range(count):
            labels = np.zeros((height, width), np.uint8)
            labels[rng.integers(10, height - 8) :] = 3
            labels[:2] = 11
            labels[:, : int(rng.integers(0, width // 2))] = 11
            image = rng.integers(0, 100, (height, width, 3)) + np.where(
                labels[..., None] == 3, (10, 10, 10), (150, 130, 60)
            )
            cv2.imwrite(str(root / split / f"{i}.png"), image.astype(np.uint8))
            cv2.imwrite(str(root / f"{split}annot" / f"{i}.png"), labels)
    return root


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in CamVid's layout; its split ``small`` has smaller pictures than ``train`` and ``val``."""
    return write_camvid(
        tmp_path_factory.mktemp("streets"), {"train": (6, (48, 64)), "small": (3, (40, 56)), "val": (2, (48, 64))}
    )


@pytest.fixture(scope="session")
def camvid_writer() -> Callable[[Path, Splits], Path]:
    """Return what writes a data set in CamVid's layout: folder, then of each split how many pictures of which size."""
    return write_camvid
