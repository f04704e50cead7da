"""What a run leaves behind: pictures of its predictions."""

from __future__ import annotations

import cv2
import numpy as np

from rt_seg_ros.labels import LabelClass, LabelSpace
from rt_seg_ros.training.run_folder import RunFolder

SPACE = LabelSpace("own", (LabelClass(0, "a", (200, 0, 0)), LabelClass(1, "b", (0, 0, 200))))


def sample(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = np.zeros((height, width), np.uint8)
    return np.full((height, width, 3), 128, np.uint8), truth, truth + 1


def test_samples_of_all_sizes_show_picture_truth_and_prediction(tmp_path):
    RunFolder(tmp_path).add_samples(7, [sample(60, 80), sample(120, 300)], SPACE)
    picture = cv2.imread(str(tmp_path / "samples/step_0000007.jpg"))
    for place in (picture[: len(picture) // 2], picture[len(picture) // 2 :]):
        for colour in ((128, 128, 128), (0, 0, 200), (200, 0, 0)):  # BGR
            assert (np.abs(place.astype(int) - colour).max(axis=2) < 30).mean() > 0.03


def test_samples_of_any_size_fit_a_jpeg(tmp_path):
    RunFolder(tmp_path).add_samples(1, [sample(4, 30_000), sample(66_000, 2)], SPACE)
    assert max(cv2.imread(str(tmp_path / "samples/step_0000001.jpg")).shape) < 65_500
