"""Colour, overlay, legend, error map, contact sheet."""

import cv2
import numpy as np
import pytest

from rt_seg_ros import drawing, lettering
from rt_seg_ros.drawing import LEGEND_SHARE, Painter, colourise, error_map, overlay, panel
from rt_seg_ros.labels import UNLABELLED, LabelClass, LabelSpace, load_label_space

SPACE = load_label_space("camvid11")
CITY = load_label_space("cityscapes19")


@pytest.fixture(name="scene")
def _scene():
    """A grey ramp and labels in blocks, with a piece that has none."""
    image = np.repeat(np.linspace(40, 200, 480).astype(np.uint8)[None, :, None], 360, axis=0).repeat(3, axis=2)
    labels = (np.arange(360)[:, None] // 60 + np.arange(480)[None, :] // 96).astype(np.uint8)
    labels[200:260, 300:400] = UNLABELLED
    return image, labels


def changed(before, after):
    return (before != after).any(axis=2)


@pytest.fixture(params=["face", "strokes"])
def _both_letterings(request, monkeypatch):
    """With the true-type face of OpenCV 5 and with the strokes that OpenCV 4 has."""
    if request.param == "strokes":
        monkeypatch.setattr(lettering, "_face", lambda: None)
    for kept in (lettering.coverage, drawing._legend, drawing._legend_size):
        kept.cache_clear()
    yield
    for kept in (lettering.coverage, drawing._legend, drawing._legend_size):
        kept.cache_clear()


def test_colourise_paints_each_class_in_its_colour():
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    bgr = colourise(labels, SPACE)
    assert bgr[0, 4].tolist() == [222, 40, 60]  # pavement
    assert np.array_equal(bgr, SPACE.palette[labels][:, :, ::-1])
    assert not bgr[labels >= SPACE.num_classes].any()


def test_colourise_fills_the_buffer_given_and_takes_views():
    labels = np.random.default_rng(0).integers(0, 11, (40, 60), dtype=np.uint8)
    out = np.empty((40, 60, 3), np.uint8)
    assert colourise(labels, SPACE, out=out) is out
    assert np.array_equal(colourise(labels[::2, ::3], SPACE), out[::2, ::3])
    assert colourise(np.zeros((0, 5), np.uint8), SPACE).shape == (0, 5, 3)


def test_overlay_blends_by_alpha_and_leaves_the_unlabelled_alone(scene):
    image, labels = scene
    labels[5, 5] = 77  # an id that the label space does not have
    drawn = overlay(image, labels, SPACE, alpha=0.3, legend=False)
    inside = labels == cv2.erode(cv2.dilate(labels, np.ones((3, 3))), np.ones((3, 3)))
    inside &= cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((5, 5))) == 0
    expected = 0.7 * image + 0.3 * colourise(labels, SPACE).astype(float)
    labelled = inside & (labels != UNLABELLED)
    assert np.abs(drawn[labelled] - expected[labelled]).max() <= 1
    unlabelled = inside & (labels == UNLABELLED)
    assert unlabelled.any()
    assert np.array_equal(drawn[unlabelled], image[unlabelled])
    assert drawn[:, 96].mean() > 0.7 * image[:, 96].mean()


def test_overlay_at_the_ends_of_alpha(scene):
    image, labels = scene
    assert np.array_equal(overlay(image, labels, SPACE, alpha=0, legend=False), image)
    full = overlay(image, labels, SPACE, alpha=1, legend=False)
    assert full[30, 50].tolist() == list(SPACE.classes[0].color[::-1])
    with pytest.raises(ValueError, match="alpha"):
        overlay(image, labels, SPACE, alpha=1.5)


def test_overlay_does_not_touch_its_inputs_and_can_draw_in_place(scene):
    image, labels = scene
    before, ids = image.copy(), labels.copy()
    drawn = overlay(image, labels, SPACE)
    assert np.array_equal(image, before) and np.array_equal(labels, ids)
    assert Painter(SPACE).overlay(image, labels, image) is image
    assert np.array_equal(image, drawn)


def test_overlay_takes_views_of_larger_arrays(scene):
    image, labels = scene
    wide = np.zeros((360, 500, 3), np.uint8)
    wide[:, 3:483] = image
    wide.flags.writeable = False
    assert np.array_equal(overlay(wide[:, 3:483], labels, SPACE), overlay(image, labels, SPACE))


def test_borders_are_drawn_lighter(scene):
    image, labels = scene
    drawn = overlay(image, labels, SPACE, legend=False)
    assert drawn[350, 94:98].astype(int).sum(axis=1).max() > drawn[350, 90].astype(int).sum() + 100


@pytest.mark.usefixtures("_both_letterings")
@pytest.mark.parametrize("space", [SPACE, CITY], ids=lambda s: s.name)
@pytest.mark.parametrize("size", [(360, 480), (1080, 1920), (375, 1242), (240, 320), (720, 480), (120, 160), (64, 64)])
def test_the_legend_keeps_to_its_share_of_the_image(space, size):
    labels = np.arange(size[0] * size[1]).reshape(size).astype(np.uint8) % space.num_classes
    image = np.full((*size, 3), 200, np.uint8)
    touched = changed(
        overlay(image, labels, space, alpha=0, legend=False), overlay(image, labels, space, alpha=0, legend=True)
    )
    assert touched.mean() <= LEGEND_SHARE
    if size[0] >= 240:
        assert touched.mean() > 0.01
        rows, columns = np.nonzero(touched)
        assert rows.max() < size[0] - 1 and columns.max() < size[1] - 1


@pytest.mark.usefixtures("_both_letterings")
def test_the_legend_names_the_classes_present_only():
    image = np.zeros((360, 480, 3), np.uint8)

    def colours(*ids):
        labels = np.resize(np.array(ids, np.uint8), (360, 480))
        drawn = overlay(image, labels, SPACE, alpha=0)
        return {tuple(c) for c in drawn.reshape(-1, 3).tolist()}

    road, car = (tuple(SPACE.classes[i].color[::-1]) for i in (3, 8))
    assert road in colours(3) and car not in colours(3)
    assert {road, car} <= colours(3, 8)
    assert colours(UNLABELLED) == {(0, 0, 0)}


def test_the_legend_grows_with_the_image():
    def height(rows, columns):
        image = np.full((rows, columns, 3), 255, np.uint8)
        labels = np.full((rows, columns), 3, np.uint8)
        plain = overlay(image, labels, SPACE, alpha=0, legend=False)
        return np.ptp(np.nonzero(changed(plain, overlay(image, labels, SPACE, alpha=0)))[0])

    assert height(1080, 1920) > 1.8 * height(360, 480)


def test_a_legend_without_room_for_all_keeps_the_most_frequent():
    space = LabelSpace("many", tuple(LabelClass(i, f"class number {i}", (i, 255 - i, 7)) for i in range(60)))
    labels = np.arange(240 * 320).reshape(240, 320) % 60
    labels[120:] = 33
    image = np.zeros((240, 320, 3), np.uint8)
    drawn = overlay(image, labels.astype(np.uint8), space, alpha=0)
    colours = {tuple(c) for c in drawn.reshape(-1, 3).tolist()}
    shown = [c.id for c in space.classes if tuple(c.color[::-1]) in colours]
    assert 33 in shown and 3 <= len(shown) < 60


def test_few_legends_are_kept_whatever_classes_come_and_go(monkeypatch):
    drawing._legend.cache_clear()
    image, out = np.zeros((360, 480, 3), np.uint8), np.empty((360, 480, 3), np.uint8)
    painter = Painter(SPACE)
    for shown in range(1, 80):  # as many sets of classes
        labels = np.resize(np.array([i for i in range(11) if shown >> i & 1], np.uint8), (360, 480))
        painter.overlay(image, labels, out)
    assert drawing._legend.cache_info().currsize <= 16
    # Where there is no room for all, what does not fit is looked up, and not reckoned anew for each frame.
    many = LabelSpace("many", tuple(LabelClass(i, f"class number {i}", (i, 255 - i, 7)) for i in range(60)))
    labels = (np.arange(240 * 320).reshape(240, 320) % 60).astype(np.uint8)
    painter = Painter(many)
    painter.overlay(image[:240, :320], labels)
    monkeypatch.setattr(lettering, "coverage", lambda *_: pytest.fail("lettered again"))
    painter.overlay(image[:240, :320], labels)


def test_a_class_lingers_in_a_painters_legend():
    image = np.zeros((360, 480, 3), np.uint8)
    car = np.array(SPACE.classes[8].color[::-1])
    with_car, without = np.full((360, 480), 3, np.uint8), np.full((360, 480), 3, np.uint8)
    with_car[300:, 300:] = 8
    painter = Painter(SPACE, alpha=0, linger=2)
    seen = []
    for labels in (without, with_car, without, without, without):
        seen.append(bool((painter.overlay(image, labels) == car).all(axis=2).any()))
    assert seen == [False, True, True, True, False]


def test_a_painter_follows_a_change_of_size(scene):
    image, labels = scene
    painter = Painter(SPACE)
    for step in (1, 2, 1):
        part = image[::step, ::step], labels[::step, ::step].copy()
        assert np.array_equal(painter.overlay(*part), overlay(*part, SPACE))


def test_a_painter_allocates_nothing_per_frame(scene):
    import tracemalloc

    image, labels = scene
    painter, out = Painter(SPACE), np.empty_like(image)
    painter.overlay(image, labels, out)
    tracemalloc.start()
    painter.overlay(image, labels, out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000  # a frame of this size takes half a million bytes


def test_overlay_refuses_sizes_that_differ(scene):
    image, labels = scene
    with pytest.raises(ValueError, match="359, 480"):
        overlay(image, labels[:-1], SPACE)
    with pytest.raises(ValueError, match="HxWx3"):
        overlay(image[:, :, 0], labels, SPACE)


def test_overlay_of_tiny_and_empty_images():
    for shape in ((0, 0), (1, 1), (2, 3), (5, 1)):
        assert overlay(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8), SPACE).shape == (*shape, 3)


def test_error_map_shows_right_wrong_and_unknown():
    truth = np.array([[3, 3, UNLABELLED, 3]], np.uint8)
    labels = np.array([[3, 8, 3, UNLABELLED]], np.uint8)
    image = np.full((1, 4, 3), 120, np.uint8)
    right, wrong, unknown, missing = error_map(labels, truth, image)[0].astype(int)
    assert np.ptp(right) == 0 and right[0] > 0
    assert wrong[2] > 180 and wrong[2] > wrong[0] + 80
    assert missing.tolist() == wrong.tolist()
    assert unknown.tolist() == [0, 0, 0]


def test_panel_places_images_in_rows_and_columns():
    red, blue = np.full((60, 80, 3), (0, 0, 255), np.uint8), np.full((60, 80, 3), (255, 0, 0), np.uint8)
    grey = np.full((60, 80), 99, np.uint8)
    sheet = panel([[red, blue], [grey]], titles=["left", "right"], captions=["first", "second"])
    for color in ((0, 0, 255), (255, 0, 0), (99, 99, 99)):
        assert (sheet == color).all(axis=2).sum() == 60 * 80
    rows, columns = np.nonzero((sheet == (255, 0, 0)).all(axis=2))
    assert columns.min() > 80 and rows.min() > 10
    assert np.nonzero((sheet == 99).all(axis=2))[0].min() > rows.max()
    with pytest.raises(ValueError, match="at least one image"):
        panel([[]])


def test_panel_fits_images_without_distortion():
    wide = np.full((50, 200, 3), 250, np.uint8)
    sheet = panel([[wide]], cell=(100, 100))
    rows, columns = np.nonzero((sheet == 250).all(axis=2))
    assert np.ptp(columns) + 1 == 100 and np.ptp(rows) + 1 == 25


def test_long_titles_are_cut_to_their_column():
    image = np.full((40, 100, 3), 9, np.uint8)
    plain, titled = panel([[image, image]], [" ", " "]), panel([[image, image]], ["m" * 200, ""])
    columns = np.nonzero(changed(plain, titled))[1]
    assert columns.size and columns.max() < 110


@pytest.mark.usefixtures("_both_letterings")
@pytest.mark.parametrize("size", [8, 12, 40])
def test_lettering_is_of_the_size_asked_for(size):
    ink = lettering.coverage("Hg", size)
    rows = np.flatnonzero((ink > 100).any(axis=1))
    assert ink.shape[0] == lettering.line_height(size)
    capital = size - rows.min()
    assert 0.55 * size <= capital <= 0.9 * size
    assert rows.max() > size
    assert lettering.coverage("", size).shape == (lettering.line_height(size), 0)
    assert lettering.coverage("wider text", size).shape[1] > 2 * ink.shape[1]


def test_letters_that_strokes_do_not_have_are_spelt_with_those_that_they_have(monkeypatch):
    monkeypatch.setattr(lettering, "_face", lambda: None)
    lettering.coverage.cache_clear()
    try:
        for text, spelt in (
            ("Straße", "Strasse"), ("Fußgänger", "Fussganger"), ("Grünfläche", "Grunflache"),
            ("Øvre Łódź", "Ovre Lodz"), ("cœur d\u2019été", "coeur d'ete"), ("日本", "??"),
        ):  # fmt: skip
            assert np.array_equal(lettering.coverage(text, 20), lettering.coverage(spelt, 20)), text
    finally:
        lettering.coverage.cache_clear()
