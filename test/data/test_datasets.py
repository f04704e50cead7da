"""Data sets in every layout, and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from rt_seg_ros.data.datasets import check_dataset, open_dataset
from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import LabelClass, LabelSpace, load_label_space

#: Of each class its number in files of label ids, as the data set's own labels.py has them.
CITYSCAPES_IDS = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def picture(value: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.full((*size, 3), (value, 1, 2), np.uint8)


def labels(*ids: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    raw = np.zeros(size, np.uint8)
    raw[0, : len(ids)] = ids
    return raw


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for i in range(3):
            write(tmp_path / split / f"{i}.png", picture(i))
            write(tmp_path / f"{split}annot" / f"{i}.png", labels(i, 10, 11))
    return tmp_path


def test_camvid_layout(camvid):
    data = open_dataset(camvid, "val")
    assert (data.name, len(data), data.label_space.name) == (f"{camvid.name}/val", 3, "camvid11")
    image, truth = data[2]
    assert image.shape == (6, 8, 3) and image[0, 0].tolist() == [2, 1, 2]  # BGR
    assert truth.dtype == np.uint8 and truth[0, :4].tolist() == [2, 10, 255, 0]
    assert [Path(name).parent.name for name in data.file_names(2)] == ["val", "valannot"]
    check_dataset(data)
    with pytest.raises(UserError, match="several splits: name one of train, val"):
        open_dataset(camvid)
    with pytest.raises(UserError, match=r"no split 'test' with labels; it has: train, val"):
        open_dataset(camvid, "test")


def test_cityscapes_without_a_split(tmp_path):
    for name in ("leftImg8bit", "gtFine"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="has no split with labels"):
        open_dataset(tmp_path)


def test_a_folder_with_nothing_but_test_will_do(tmp_path):
    write(tmp_path / "test" / "a.png", picture(7))
    write(tmp_path / "testannot" / "a.png", labels(3))
    assert len(open_dataset(tmp_path, "test")) == 1
    assert open_dataset(tmp_path)[0][1][0, 0] == 3  # the only split needs no name


@pytest.mark.parametrize("splits", [False, True])
def test_pairs(tmp_path, splits):
    inside = "train/" if splits else ""
    write(tmp_path / f"images/{inside}a.jpg", picture(7))
    write(tmp_path / f"labels/{inside}a.png", labels(3))
    data = open_dataset(tmp_path, "train" if splits else None)
    assert data[0][1][0, 0] == 3
    if not splits:
        with pytest.raises(UserError, match="has no splits"):
            open_dataset(tmp_path, "train")


def test_pictures_beside_the_only_split_are_not_left_out_unsaid(tmp_path):
    for name in ("a", "b", "night/c"):
        write(tmp_path / f"images/{name}.jpg", picture(7))
        write(tmp_path / f"labels/{name}.png", labels(3))
    with pytest.raises(UserError, match=r"pictures beside its splits \(night\), such as images/a\.jpg"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, "night")) == 1


def test_pairs_in_subfolders_match_by_their_paths(tmp_path):
    images, labelled = (tmp_path / kind / "train" for kind in ("images", "labels"))
    for i, name in enumerate(("b/1", "a/deep/1", "1")):
        write(images / f"{name}.jpg", picture(i))
        write(labelled / f"{name}.png", labels(i))
    for folder in (images, labelled):
        (folder / "a" / "back").symlink_to(folder)  # no end, if it were followed
        (folder / ".thumbnails").mkdir()
        (folder / ".thumbnails" / "x.png").touch()
    data = open_dataset(tmp_path, "train")
    check_dataset(data)
    assert [Path(name).relative_to(images).as_posix() for name, _ in map(data.file_names, range(len(data)))] == [
        "1.jpg", "a/deep/1.jpg", "b/1.jpg",
    ]  # fmt: skip
    assert [int(data[i][1][0, 0]) for i in range(len(data))] == [2, 1, 0]
    (labelled / "b/1.png").rename(labelled / "b/1.jpg")
    with pytest.raises(UserError, match=r"(?s)has JPEG files.*b/1\.jpg has no labels"):
        open_dataset(tmp_path, "train")


def test_subfolders_that_are_links_are_read(tmp_path):
    for kind, pixels in (("images", picture(7)), ("labels", labels(3))):
        write(tmp_path / "drive" / kind / "1.png", pixels)
        (tmp_path / "set" / kind / "train").mkdir(parents=True)
        (tmp_path / "set" / kind / "train" / "first").symlink_to(tmp_path / "drive" / kind)
    assert open_dataset(tmp_path / "set", "train")[0][1][0, 0] == 3


@pytest.mark.parametrize(("kind", "ids"), [("labelTrainIds", (0, 18, 255)), ("labelIds", (7, 33, 0))])
def test_cityscapes_layout(tmp_path, kind, ids):
    write(tmp_path / "leftImg8bit/val/town/town_1_leftImg8bit.png", picture(7))
    write(tmp_path / f"gtFine/val/town/town_1_gtFine_{kind}.png", labels(*ids))
    data = open_dataset(tmp_path, "val")
    assert data.label_space.name == "cityscapes19"
    check_dataset(data)
    assert data[0][1][0, :3].tolist() == [0, 18, 255]


def test_every_label_id_of_cityscapes_becomes_its_class(tmp_path):
    raw = np.arange(34, dtype=np.uint8)[None].repeat(2, 0)
    write(tmp_path / "leftImg8bit/val/town/town_1_leftImg8bit.png", picture(7, raw.shape))
    write(tmp_path / "gtFine/val/town/town_1_gtFine_labelIds.png", raw)
    names = load_label_space("cityscapes19").names
    expected = [255] * 34
    for name, label_id in CITYSCAPES_IDS.items():
        expected[label_id] = names.index(name)
    assert open_dataset(tmp_path, "val")[0][1][0].tolist() == expected


def test_cityscapes_is_not_scored_against_other_classes(tmp_path):
    write(tmp_path / "leftImg8bit/val/town/town_1_leftImg8bit.png", picture(7))
    write(tmp_path / "gtFine/val/town/town_1_gtFine_labelIds.png", labels(7, 11, 23))
    with pytest.raises(UserError, match=r"laid out as Cityscapes, whose classes are not those of 'camvid11'"):
        open_dataset(tmp_path, "val", "camvid11")
    own = LabelSpace("own", tuple(LabelClass(i, f"c{i}", (i, i, i)) for i in range(19)), frozenset())
    with pytest.raises(UserError, match=r"town_1_gtFine_labelIds\.png has Cityscapes' label ids"):
        open_dataset(tmp_path, "val", own)
    write(tmp_path / "gtFine/val/town/town_1_gtFine_labelTrainIds.png", labels(1, 2, 3))
    assert open_dataset(tmp_path, "val", own)[0][1][0, :3].tolist() == [1, 2, 3]


def test_names_are_equal_however_their_umlauts_are_written(camvid):
    (camvid / "val/2.png").rename(camvid / "val/Stra\u00dfe gr\u00f6\u00dfer.png")
    (camvid / "valannot/2.png").rename(camvid / "valannot/Stra\u00dfe gro\u0308\u00dfer.png")
    assert len(open_dataset(camvid, "val")) == 3


def test_jpeg_is_told_to_be_no_label_format(camvid):
    (camvid / "valannot/1.png").rename(camvid / "valannot/1.jpg")
    with pytest.raises(UserError, match=r"(?s)valannot has JPEG files, which do not keep class ids: take PNG.*val/1"):
        open_dataset(camvid, "val")


def test_missing_partners_are_named(camvid):
    (camvid / "valannot/1.png").unlink()
    (camvid / "val/2.png").unlink()
    with pytest.raises(UserError, match=r"(?s)not complete.*val/1\.png has no labels.*valannot/2\.png has no picture"):
        open_dataset(camvid, "val")


def test_unusable_pairs_are_named_all_at_once(camvid):
    write(camvid / "val/0.png", picture(0, (5, 8)))
    write(camvid / "valannot/1.png", labels(3, 12, 77))
    write(camvid / "valannot/2.png", picture(3))
    with pytest.raises(UserError) as raised:
        check_dataset(open_dataset(camvid, "val"))
    message = str(raised.value)
    assert "val/0.png is 5x8" in message and "valannot/0.png are 6x8" in message
    assert "valannot/1.png has ids outside label space 'camvid11' (0 to 10, void [11, 255]): 12, 77" in message
    assert "valannot/2.png is no label image" in message


def test_reading_refuses_what_checking_would(camvid):
    write(camvid / "valannot/1.png", labels(12))
    with pytest.raises(UserError, match=r"valannot/1\.png has ids outside"):
        open_dataset(camvid, "val")[1]


def test_damaged_and_unknown(camvid, tmp_path):
    (camvid / "val/0.png").write_bytes(b"\x89PNG torn")
    with pytest.raises(UserError, match=r"val/0\.png cannot be read"):
        check_dataset(open_dataset(camvid, "val"))
    (tmp_path / "other" / "stuff").mkdir(parents=True)
    with pytest.raises(UserError, match=r"(?s)no layout of a data set.*it holds: stuff"):
        open_dataset(tmp_path / "other")
    with pytest.raises(UserError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")


def test_two_files_of_one_name_are_refused(camvid):
    write(camvid / "val/0.bmp", picture(0))
    with pytest.raises(UserError, match="one name"):
        open_dataset(camvid, "val")


def test_a_folder_is_called_by_its_name_however_it_is_given(camvid, monkeypatch):
    monkeypatch.chdir(camvid)
    assert open_dataset(".", "val").name == f"{camvid.name}/val"
    monkeypatch.chdir(camvid / "val")
    assert open_dataset("..", "val").name == f"{camvid.name}/val"


def test_labels_that_are_all_void_are_refused(camvid):
    for i in range(3):
        write(camvid / f"valannot/{i}.png", np.full((6, 8), (11, 255)[i % 2], np.uint8))
    with pytest.raises(UserError, match=r"no pixel of its 3 label images has a class, all are void \(11, 255 in label"):
        check_dataset(open_dataset(camvid, "val"))
    check_dataset(open_dataset(camvid, "val"), [0])  # a share of them
    write(camvid / "valannot/2.png", labels(3))
    check_dataset(open_dataset(camvid, "val"))


def test_12_bit_pictures_are_as_bright_as_others(camvid):
    bright = np.full((6, 8, 3), 200, np.uint8)
    write(camvid / "val/0.png", bright.astype(np.uint16) * 16)
    assert np.array_equal(open_dataset(camvid, "val").image(0), bright)


def test_classes_that_no_pixel_has_are_named_once(tmp_path, caplog):
    space = LabelSpace("yard", (LabelClass(0, "other", (0, 0, 0)), LabelClass(1, "road", (1, 1, 1))))
    for i in range(2):
        write(tmp_path / f"images/{i}.png", picture(i))
        write(tmp_path / f"labels/{i}.png", labels(255, 255))  # a mask as image editors have it
    for _ in range(2):
        check_dataset(open_dataset(tmp_path, None, space))
    check_dataset(open_dataset(tmp_path, None, space), [0])
    (said,) = caplog.messages  # of the whole, and once
    assert f"{tmp_path.name}: no pixel of its 2 label images is road" in said and "write 0 and 1" in said
    caplog.clear()
    write(tmp_path / "labels/1.png", labels(1))
    check_dataset(open_dataset(tmp_path, None, space))
    assert not caplog.messages


def test_what_macos_puts_beside_files_is_no_part_of_a_data_set(camvid, tmp_path_factory):
    for folder in ("val", "valannot"):
        (camvid / folder / "._0.png").write_bytes(b"\0\5\x16\7 Mac OS X")
    check_dataset(open_dataset(camvid, "val"))
    city = tmp_path_factory.mktemp("city")
    write(city / "leftImg8bit/val/town/town_1_leftImg8bit.png", picture(7))
    write(city / "gtFine/val/town/town_1_gtFine_labelIds.png", labels(7))
    (city / "leftImg8bit/val/town/._town_1_leftImg8bit.png").write_bytes(b"\0\5\x16\7 Mac OS X")
    assert len(open_dataset(city, "val")) == 1
