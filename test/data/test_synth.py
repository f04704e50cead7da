"""The rendered drive: repeatable, complete, true to its camera, labels aligned with the picture."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from rt_seg_ros.data.synth import SyntheticDrive
from rt_seg_ros.data.synth import drive as drive_module
from rt_seg_ros.data.synth.camera import NEAR, Camera, Intrinsics, clip_near, look
from rt_seg_ros.data.synth.canvas import Canvas
from rt_seg_ros.data.synth.patterns import noise
from rt_seg_ros.data.synth.things import PAVEMENT, ROAD
from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import load_label_space

CLASSES = load_label_space("camvid11").num_classes


@pytest.fixture(scope="module")
def drive() -> SyntheticDrive:
    return SyntheticDrive(3)


def test_shapes_and_ids(drive: SyntheticDrive) -> None:
    image, labels = drive.render(4)
    assert image.shape == (360, 480, 3) and image.dtype == np.uint8
    assert labels.shape == (360, 480) and labels.dtype == np.uint8
    assert labels.max() < CLASSES  # everything rendered is known


def test_same_seed_and_index_give_the_same_frame_in_any_order(drive: SyntheticDrive) -> None:
    drive_module._street.cache_clear()  # it would share the blocks that were built
    other = SyntheticDrive(3)
    assert other.street is not drive.street
    later_first = other.render(50)
    for index, (image, labels) in ((50, later_first), (7, other.render(7))):
        expected_image, expected_labels = drive.render(index)
        np.testing.assert_array_equal(image, expected_image)
        np.testing.assert_array_equal(labels, expected_labels)


def test_same_frame_in_another_process(drive: SyntheticDrive) -> None:
    code = (
        "from rt_seg_ros.data.synth import SyntheticDrive; import zlib;"
        "i, l = SyntheticDrive(3).render(7); print(zlib.crc32(i.tobytes()), zlib.crc32(l.tobytes()))"
    )
    import zlib

    image, labels = drive.render(7)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said == [str(zlib.crc32(image.tobytes())), str(zlib.crc32(labels.tobytes()))]


def test_needs_no_torch() -> None:
    code = "import sys, rt_seg_ros.data.synth; assert 'torch' not in sys.modules and 'rclpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("seed", (0, 11, 22, 33))
def test_every_class_occurs_in_twenty_frames(seed: int) -> None:
    small = SyntheticDrive(seed, 120, 160)
    counts = sum(np.bincount(small.render(i)[1].ravel(), minlength=CLASSES) for i in (0, 10, 19))
    names = load_label_space("camvid11").names
    assert not [names[c] for c in range(CLASSES) if counts[c] == 0]


def test_class_shares_are_a_streets() -> None:
    """As in CamVid's training frames, about: road, building and sky most, riders and poles least."""
    counts = np.zeros(CLASSES)
    for seed in range(4):
        small = SyntheticDrive(100 + seed, 90, 120)
        for i in (0, 90, 180):
            counts += np.bincount(small.render(i)[1].ravel(), minlength=CLASSES)
    shares = dict(zip(load_label_space("camvid11").names, counts / counts.sum(), strict=True))
    assert 0.2 < shares["road"] < 0.45
    assert 0.12 < shares["building"] < 0.4
    assert 0.08 < shares["sky"] < 0.3
    assert 0.01 < shares["pavement"] < 0.12
    assert 0.02 < shares["tree"] < 0.2
    assert 0.02 < shares["car"] < 0.16
    for name in ("pole", "sign", "fence", "pedestrian", "bicyclist"):
        assert 0.002 < shares[name] < 0.06, name


def test_other_seeds_are_other_streets(drive: SyntheticDrive) -> None:
    image, labels = drive.render(0)
    for seed in (4, 5):
        other_image, other_labels = SyntheticDrive(seed).render(0)
        assert (labels != other_labels).mean() > 0.1
        assert np.abs(image.astype(int) - other_image).mean() > 10


def test_things_move_and_light_changes(drive: SyntheticDrive) -> None:
    (_, labels), (_, next_labels) = drive.render(0), drive.render(1)
    assert 0.001 < (labels != next_labels).mean() < 0.25  # a step, not a jump
    exposures = [drive._weather.at(t).exposure for t in np.linspace(0, 20, 50)]
    assert np.ptp(exposures) > 0.05


def test_the_drive_goes_forward() -> None:
    for seed in range(3):
        small = SyntheticDrive(seed, 32, 32)
        places = [small.position(t) for t in np.arange(0, 60, 0.1)]
        assert (np.diff(places) > 0).all()


def test_label_edges_lie_on_image_edges(drive: SyntheticDrive) -> None:
    """Of all shifts by up to 2 pixels, none at all fits best."""
    fit = np.zeros((5, 5))
    for index in (10, 40, 90):
        image, labels = drive.render(index)
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32)
        step = np.abs(np.diff(grey, axis=1))[2:-2, :]
        edge = (np.diff(labels.astype(int), axis=1) != 0)[2:-2, :]
        step_down = np.abs(np.diff(grey, axis=0))[:, 2:-2]
        edge_down = (np.diff(labels.astype(int), axis=0) != 0)[:, 2:-2]
        for d in range(-2, 3):
            fit[2, d + 2] += np.roll(step, d, 1)[edge].mean()
            fit[d + 2, 2] += np.roll(step_down, d, 0)[edge_down].mean()
    assert fit[2].argmax() == 2
    assert fit[:, 2].argmax() == 2


def test_sizes_show_the_same_scene() -> None:
    small, large = SyntheticDrive(11, 180, 240), SyntheticDrive(11, 360, 480)
    for index in (0, 33):
        labels = large.render(index)[1]
        half = small.render(index)[1]
        # A pixel of the small one covers four of the large one: it has the label of one of them.
        fours = np.stack([labels[y::2, x::2] for y in (0, 1) for x in (0, 1)])
        assert (fours == half).any(0).mean() > 0.985


@pytest.mark.parametrize("size", [(32, 32), (97, 211), (375, 1242), (600, 300)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    odd = SyntheticDrive(2, *size)
    image, labels = odd.render(3)
    assert image.shape == (*size, 3) and labels.shape == size


def test_camera_scales_with_the_size() -> None:
    a, b = SyntheticDrive(5, 360, 480).camera_info(), SyntheticDrive(5, 720, 480).camera_info()
    assert (a.fx, a.cx, b.height, b.width) == (b.fx, b.cx, 720, 480)
    assert b.fy == pytest.approx(2 * a.fy)
    assert (b.cy + 0.5) == pytest.approx(2 * (a.cy + 0.5))
    assert a.fx == pytest.approx(a.fy)  # square pixels at 4:3
    assert 40 < np.degrees(2 * np.arctan(0.5 * a.width / a.fx)) < 70


def test_the_picture_is_what_the_camera_says(drive: SyntheticDrive) -> None:
    """Points left and right of the kerb, projected, fall on road and pavement."""
    street = drive.street
    hits = 0
    for index in range(0, 100, 10):
        camera = drive.camera(index)
        labels = drive.render(index)[1]
        for ahead in (7.0, 9.0, 12.0):
            s = float(camera.position[2]) + ahead
            for side, away in ((0, -1), (1, 1)):
                kerb = street.half_road[side]
                seen = camera.to_camera(street.world(np.array([s, s]), away * np.array([kerb - 0.25, kerb + 0.25])))
                (u, v), (x, y) = np.rint(camera.pixels(seen)).astype(int)
                inside = all(0 <= a < 480 and 0 <= b < 360 for a, b in ((u, v), (x, y)))
                hits += bool(inside and labels[v, u] == ROAD and labels[y, x] == PAVEMENT)
    assert hits >= 12  # the rest is out of the frame, or hidden by what stands there


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((1, 16, 480), "16x480"), ((1, 360, 10000), "360x10000"), ((-1,), "seed -1"), ((1, 360, 480, 0.0), "rate of 0.0")],
)
def test_impossible_drives_are_refused(arguments: tuple[float, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        SyntheticDrive(*arguments)  # type: ignore[arg-type]


def test_negative_frames_are_no_frames(drive: SyntheticDrive) -> None:
    with pytest.raises(IndexError):
        drive.render(-1)


# ---- parts -------------------------------------------------------------------------------------------


def _inside(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Tell for each pixel's centre whether a convex polygon holds it."""
    y, x = np.mgrid[0:height, 0:width]
    inside = np.ones((height, width), bool)
    for a, b in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        inside &= (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) >= 0
    return inside


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5, 0.7])
def test_a_painted_polygon_covers_its_pixels(shift: float) -> None:
    polygon = np.array([(10.2, 5.1), (50.7, 9.3), (44.0, 40.2), (14.9, 33.3)]) + shift
    canvas = Canvas(60, 80)
    canvas.facets(polygon, [(0, 4)], [(10.0, 200.0, 90.0)], 7)
    expected = _inside(polygon, 60, 80)
    outline = polygon.astype(np.float32).reshape(-1, 1, 2)
    for y, x in np.argwhere((canvas.labels == 7) != expected):  # the outline runs through these, near their centres
        assert abs(cv2.pointPolygonTest(outline, (float(x), float(y)), True)) < 0.2
    assert (canvas.image[cv2.erode(expected.astype(np.uint8), np.ones((3, 3))) > 0] == (10, 200, 90)).all()
    # The picture's brightness adds up to the polygon's area: anti-aliased without growing.
    area = cv2.contourArea(polygon.astype(np.float32))
    assert canvas.image[:, :, 1].sum() / 200 == pytest.approx(area, rel=0.05)


def test_labels_follow_the_picture_half_way() -> None:
    """A pixel takes the label of what covers at least half of it."""
    canvas = Canvas(8, 30)
    for i, covered in enumerate((0.2, 0.8)):
        x = 4 + 10 * i
        box = np.array([(x - 0.5, 1.5), (x + 1.5 + covered - 1, 1.5), (x + 1.5 + covered - 1, 5.5), (x - 0.5, 5.5)])
        canvas.facets(box, [(0, 4)], [(255.0, 255.0, 255.0)], 3)
        assert canvas.labels[3, x] == 3
        assert (canvas.labels[3, x + 1] == 3) == (covered >= 0.5)
        assert canvas.image[3, x + 1, 0] / 255 == pytest.approx(covered, abs=0.26)


def test_projection_and_clipping() -> None:
    intrinsics = Intrinsics(400.0, 400.0, 239.5, 179.5, 360, 480)
    camera = Camera(intrinsics, np.array([0.0, -1.4, 0.0]), look(0.0, 0.0, 0.0))
    np.testing.assert_allclose(camera.outline(np.array([[0.0, -1.4, 5.0]] * 3))[0], (239.5, 179.5))
    ground = camera.to_camera(np.array([[1.0, 0.0, 10.0]]))
    np.testing.assert_allclose(camera.pixels(ground), [(239.5 + 40, 179.5 + 56)])
    behind = np.array([[-1.0, 0.0, -2.0], [1.0, 0.0, -2.0], [1.0, 0.0, 4.0], [-1.0, 0.0, 4.0]])
    assert clip_near(behind)[:, 2].min() == pytest.approx(NEAR)
    assert camera.outline(behind - [0, 0, 10]) is None
    homography = camera.plane(np.array([1.0, 0.0, 6.0]), np.array([0.0, 0.0, 1.0]), np.array([0.0, -1.0, 0.0]))
    mapped = homography @ (2.0, 0.5, 1.0)
    np.testing.assert_allclose(mapped[:2] / mapped[2], camera.outline(np.array([[1.0, -0.5, 8.0]] * 3))[0])


def test_turning_the_camera() -> None:
    """Yaw is to the right, pitch is down."""
    right = look(0.1, 0.0, 0.0) @ (0.0, 0.0, 1.0)
    down = look(0.0, 0.1, 0.0) @ (0.0, 0.0, 1.0)
    assert right[0] < 0 and down[1] < 0  # what was ahead moves left, or up


def test_noise_tiles() -> None:
    field = noise(np.random.default_rng(1), 64, 96, 1.5)
    inner = np.abs(np.diff(field, axis=0)).mean()
    assert np.abs(field[0] - field[-1]).mean() < 2 * inner
    assert abs(float(field.mean())) < 1e-4 and float(field.std()) == pytest.approx(1, abs=1e-3)
