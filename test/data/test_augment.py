"""Augmentation: picture and labels take the same way, to the pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rt_seg_ros.data.augment import Augmenter, AugmentOptions, Views, draw_views, generator

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def view(scale: float = 1.0, top: float = 0.0, left: float = 0.0, mirrored: bool = False, **factors: float) -> Views:
    def column(value: float) -> np.ndarray:
        return np.array([value], np.float32)

    jitter = {name: column(factors.get(name, 1.0)) for name in ("brightness", "contrast", "saturation")}
    return Views(column(scale), column(top), column(left), column(float(mirrored)), **jitter)


def augmented(image: np.ndarray, labels: np.ndarray, crop: tuple[int, int], views: Views, **options):
    augmenter = Augmenter(AugmentOptions(crop, **options), *PLAIN)
    stored = torch.from_numpy(image)[None]
    x, truth = augmenter(stored, torch.from_numpy(labels)[None], np.array([labels.shape]), views)
    return x[0].numpy(), truth[0].numpy()


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, 12, 16), np.uint8), rng.integers(0, 11, (12, 16), np.uint8)


def test_identity_changes_nothing(noise):
    x, truth = augmented(*noise, (12, 16), view())
    np.testing.assert_allclose(x, noise[0], atol=1e-3)
    np.testing.assert_array_equal(truth, noise[1])


def test_mirror_and_whole_pixel_crops_are_exact(noise):
    image, labels = noise
    x, truth = augmented(image, labels, (5, 7), view(top=4, left=3))
    np.testing.assert_allclose(x, image[:, 4:9, 3:10], atol=1e-3)
    np.testing.assert_array_equal(truth, labels[4:9, 3:10])
    x, truth = augmented(image, labels, (5, 7), view(top=4, left=3, mirrored=True))
    np.testing.assert_allclose(x, image[:, 4:9, 3:10][..., ::-1], atol=1e-3)
    np.testing.assert_array_equal(truth, labels[4:9, 3:10][:, ::-1])


@pytest.mark.parametrize("mirrored", [False, True])
def test_doubling_has_half_pixel_centres(noise, mirrored):
    image, labels = noise
    x, truth = augmented(image, labels, (24, 32), view(scale=2.0, mirrored=mirrored))
    expected = F.interpolate(torch.from_numpy(image)[None].float(), scale_factor=2, mode="bilinear")[0].numpy()
    doubled = labels.repeat(2, 0).repeat(2, 1)
    if mirrored:
        expected, doubled = expected[..., ::-1], doubled[:, ::-1]
    np.testing.assert_array_equal(truth, doubled)
    np.testing.assert_allclose(x[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-2)  # beyond the edge is the mean


def test_a_picture_that_shrinks_is_averaged():
    image, labels = np.zeros((3, 16, 32), np.uint8), np.zeros((16, 32), np.uint8)
    image[:, :, 3::4] = 200  # one column of four
    x, _ = augmented(image, labels, (4, 8), view(scale=0.25), scale=(0.25, 1.0))
    np.testing.assert_allclose(x[:, 1:-1, 1:-1], 50.0, atol=1e-2)


@pytest.mark.parametrize("seed", range(8))
def test_an_edge_is_where_its_labels_say(seed):
    """Whatever the view, the picture's edge lies within half a picture pixel of the labels' edge."""
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:] = 1
    image = np.broadcast_to(labels * 200, (3, 40, 60)).copy()
    options = AugmentOptions((32, 48), scale=(0.7, 1.9), flip=0.5)
    views = draw_views(options, np.array([labels.shape]), generator(seed, 0))
    x, truth = augmented(image, labels, (32, 48), views, scale=(0.7, 1.9))
    inside = np.flatnonzero(truth[16] != 255)[2:-2]  # the picture's own border fades into the mean
    row, true_row = x[0, 16][inside] / 200, truth[16][inside]
    mirrored = views.mirrored[0] > 0
    true_edge = (true_row == (1 if mirrored else 0)).sum()
    edge = (row if mirrored else 1 - row).sum()
    assert abs(edge - true_edge) < 0.5 * max(1.0, views.scale[0]) + 0.05


@pytest.mark.parametrize(("law", "mean", "below"), [("log", 1.24, 0.43), ("uniform", 1.5, 0.25)])
def test_scales_are_drawn_by_their_law(law, mean, below):
    options = AugmentOptions((32, 48), scale=(0.5, 2.5), scale_law=law)
    scale = draw_views(options, np.full((20_000, 2), 40), generator(0, 0)).scale
    assert abs(scale.mean() - mean) < 0.02 and abs((scale < 1).mean() - below) < 0.02
    assert scale.min() >= 0.5 and scale.max() <= 2.5


def test_outside_is_void_and_mean():
    mean = (10.0, 20.0, 30.0)
    image = np.full((3, 4, 4), 200, np.uint8)
    augmenter = Augmenter(AugmentOptions((8, 8)), mean, (1.0, 1.0, 1.0))
    stored, labels = torch.from_numpy(image)[None], torch.full((1, 4, 4), 3, dtype=torch.uint8)
    x, truth = augmenter(stored, labels, np.array([[4, 4]]), view(top=-2, left=-2))
    assert (truth[0, 2:6, 2:6] == 3).all() and (truth == 3).sum() == 16 and set(truth.unique().tolist()) == {3, 255}
    assert x[0, :, 0, 0].abs().max() == 0  # the mean, normalised


def test_void_stays_void():
    labels = np.array([[0, 255], [10, 254]], np.uint8)
    _, truth = augmented(np.zeros((3, 2, 2), np.uint8), labels, (2, 2), view())
    np.testing.assert_array_equal(truth, labels)


def test_light_and_colour():
    image = np.zeros((3, 2, 4), np.uint8)
    image[:] = np.array([100, 60, 20], np.uint8)[:, None, None]
    labels = np.zeros((2, 4), np.uint8)
    some = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5}
    grey = 0.299 * 100 + 0.587 * 60 + 0.114 * 20
    x, _ = augmented(image, labels, (2, 4), view(brightness=1.5), **some)
    np.testing.assert_allclose(x[:, 0, 0], [150, 90, 30], atol=1e-2)
    x, _ = augmented(image, labels, (2, 4), view(saturation=0.0), **some)
    np.testing.assert_allclose(x[:, 0, 0], [grey] * 3, atol=1e-2)
    x, _ = augmented(image, labels, (2, 4), view(contrast=0.0), **some)
    np.testing.assert_allclose(x[:, 0, 0], [grey] * 3, atol=1e-2)


def test_colours_stay_within_what_a_picture_can_hold():
    image, labels = np.full((3, 2, 4), 200, np.uint8), np.zeros((2, 4), np.uint8)
    x, _ = augmented(image, labels, (2, 4), view(brightness=1.5), brightness=0.5)
    np.testing.assert_allclose(x, 255.0, atol=1e-3)


def test_views_keep_to_their_options_and_their_seed():
    sizes = np.tile([[360, 480]], (500, 1))
    options = AugmentOptions((240, 320), scale=(0.5, 2.0), flip=0.3, brightness=0.4)
    views = draw_views(options, sizes, generator(1, 2))
    assert views.scale.min() >= 0.5 and views.scale.max() <= 2.0
    assert 0.4 < (views.scale < 1.0).mean() < 0.6  # log-uniform
    assert 0.2 < views.mirrored.mean() < 0.4
    assert abs(views.brightness - 1).max() <= 0.4 and (views.contrast == 1).all()
    room = 360 * views.scale - 240
    assert ((views.top >= np.minimum(room, 0) - 1e-3) & (views.top <= np.maximum(room, 0) + 1e-3)).all()
    again = draw_views(options, sizes, generator(1, 2))
    np.testing.assert_array_equal(views.top, again.top)
    assert (views.top != draw_views(options, sizes, generator(1, 3)).top).any()


def test_scales_may_be_a_list():
    options = AugmentOptions((240, 320), scales=(0.5, 0.75, 2.0))
    drawn = draw_views(options, np.tile([[360, 480]], (200, 1)), generator(0)).scale
    assert set(np.unique(drawn).tolist()) == {0.5, 0.75, 2.0}
