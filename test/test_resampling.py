import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rt_seg_ros.images import Frame
from rt_seg_ros.labels import UNLABELLED
from rt_seg_ros.resampling import LabelUpsampler, Normaliser, _strips, drop_uncertain, resize_labels, resize_pixels


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 19),
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(0, 9),
)
@example(2, 1, 1, 4, 1, 0)  # four rows of one column: OpenCV takes a number beside them for another array
def test_labels_and_confidence_are_those_of_interpolate_softmax_argmax(classes, h, w, height, width, seed):
    logits = np.random.default_rng(seed).normal(size=(classes, h, w)).astype(np.float32) * 4
    labels, confidence = LabelUpsampler()(logits, (height, width), confidence=True)
    full = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], (height, width), mode="bilinear")[0]
    top = full.topk(min(2, classes), 0).values
    clear = (top[0] - top[-1]).numpy() > 1e-4 if classes > 1 else np.ones((height, width), bool)
    assert np.array_equal(labels[clear], full.argmax(0).numpy().astype(np.uint8)[clear])
    assert np.abs(confidence.astype(float) - full.softmax(0).amax(0).numpy() * 255).max() <= 0.51


def test_of_equal_classes_the_first_wins():
    labels, confidence = LabelUpsampler()(np.zeros((4, 3, 3), np.float32), (9, 9), confidence=True)
    assert not labels.any()
    assert np.all(confidence == 64)  # a quarter


def test_an_edge_stays_where_it_is_through_shrinking_and_growing_back():
    height, width, edge = 120, 200, 80
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, edge:] = 255
    for working in ((60, 100), (40, 50), (120, 200), (240, 400), (30, 40), (60, 400), (240, 100)):
        seen = resize_pixels(picture, working)[:, :, 0].astype(np.float32) / 255 - 0.5
        labels, _ = LabelUpsampler()(np.stack([-seen, seen]), (height, width))
        assert np.array_equal(labels, (picture[:, :, 0] > 0).astype(np.uint8)), working


@pytest.mark.parametrize("size", [(60, 80), (36, 48), (60, 720), (540, 80), (100, 133)])
def test_labels_are_resized_to_where_the_image_is(size):
    for ramp in np.meshgrid(np.arange(240, dtype=np.uint8), np.arange(180, dtype=np.uint8)):
        labels, image = resize_labels(ramp, size), resize_pixels(np.dstack([ramp] * 3), size)
        assert labels.shape == size and labels.dtype == np.uint8
        apart = labels.astype(float) - image[:, :, 0]
        assert abs(apart.mean()) <= 0.15 and np.abs(apart).max() <= 1


def test_normalised_planes_are_rgb_whatever_the_order_of_the_frame():
    bgr = np.random.default_rng(0).integers(0, 256, (10, 12, 3), np.uint8)
    mean, std = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
    expected = ((bgr[:, :, ::-1].astype(np.float32) - mean) / std).transpose(2, 0, 1)
    write = Normaliser(mean, std).write
    for order, code in (
        ("bgr", None),
        ("rgb", cv2.COLOR_BGR2RGB),
        ("bgra", cv2.COLOR_BGR2BGRA),
        ("rgba", cv2.COLOR_BGR2RGBA),
    ):
        out = np.full((3, 10, 12), np.nan, np.float32)
        write(Frame(bgr if code is None else cv2.cvtColor(bgr, code), order), out)
        assert np.allclose(out, expected, atol=1e-5), order
    out = np.full((3, 10, 12), np.nan, np.float32)
    write(Frame(np.ascontiguousarray(bgr[:, :, 0]), "mono"), out)
    assert np.allclose(out[1], (bgr[:, :, 0] - 110.0) / 60.0, atol=1e-5)


def test_planes_of_a_padded_read_only_view():
    padded = np.random.default_rng(1).integers(0, 256, (10, 50), np.uint8)
    padded.setflags(write=False)
    view = np.ndarray((10, 12, 3), np.uint8, buffer=padded, strides=(50, 3, 1))
    out = np.empty((3, 10, 12), np.float32)
    Normaliser((0, 0, 0), (1, 1, 1)).write(Frame(view), out)
    assert np.array_equal(out[0], view[:, :, 2])


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_uncertain_labels_become_unlabelled(threshold):
    confidence = np.arange(256, dtype=np.uint8).reshape(16, 16)
    labels = np.full((16, 16), 3, np.uint8)
    drop_uncertain(labels, confidence, threshold)
    assert np.array_equal(labels == UNLABELLED, confidence < round(threshold * 255))


@pytest.mark.parametrize(
    "planes, size, strips",
    [
        ((90, 120), (720, 960), 5),
        ((64, 128), (1024, 2048), 16),
        ((3, 60), (1536, 960), 3),  # no more strips than rows
        ((90, 120), (719, 960), 1),  # 719 is no multiple of 90
        ((45, 60), (360, 480), 1),
    ],
)
def test_confidence_in_strips_is_that_of_whole_planes(planes, size, strips):
    assert len(_strips(planes[0], size)) == strips
    logits = np.random.default_rng(7).normal(0, 4, (5, *planes)).astype(np.float32)
    whole = np.stack([cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in logits])
    best = whole.max(0)
    total = np.zeros(size, np.float32)
    for plane in whole:
        total += cv2.exp(plane - best)
    labels, confidence = LabelUpsampler()(logits, size, confidence=True)
    assert np.array_equal(labels, whole.argmax(0))
    assert np.array_equal(confidence, np.rint(np.float32(255) / total).astype(np.uint8))
