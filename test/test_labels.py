import numpy as np
import pytest
import yaml

from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import UNLABELLED, list_label_spaces, load_label_space, parse_label_space


def test_camvid_is_the_protocol_s_order_and_colours():
    space = load_label_space("camvid11")
    assert space.names == (
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    )  # fmt: skip
    assert space.palette[3].tolist() == [128, 64, 128]
    assert space.palette[10].tolist() == [0, 128, 192]
    assert space.palette[UNLABELLED].tolist() == [0, 0, 0]


def test_cityscapes_has_its_19_train_ids():
    space = load_label_space("cityscapes19")
    assert space.num_classes == 19
    assert space.names[0] == "road" and space.names[10] == "sky" and space.names[18] == "bicycle"
    assert space.palette[13].tolist() == [0, 0, 142]


def test_void_and_unknown_ids_become_unlabelled():
    space = load_label_space("camvid11")
    raw = np.array([[0, 10, 11], [12, 200, 255]], np.uint8)
    assert space.from_raw(raw).tolist() == [[0, 10, 255], [255, 255, 255]]


def test_a_user_s_own_file(tmp_path):
    path = tmp_path / "mine.yaml"
    classes = [{"name": "floor", "color": [1, 2, 3]}, {"name": "wall", "color": [4, 5, 6]}]
    path.write_text(yaml.safe_dump({"name": "mine", "void_ids": [7], "classes": classes}))
    space = load_label_space(path)
    assert (space.name, space.num_classes, space.id_of("wall")) == ("mine", 2, 1)
    assert space.from_raw(np.array([0, 1, 7], np.uint8)).tolist() == [0, 1, 255]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"classes": []}, "0 classes"),
        ({"classes": [{"name": "a", "color": [0, 0, 300]}]}, "300"),
        ({"classes": [{"name": "a", "color": [0, 0, 0]}] * 2}, "twice"),
        ({"classes": [{"color": [0, 0, 0]}]}, "class 0"),
        ({"classes": [{"name": "a", "color": [0, 0, 0]}], "void_ids": [0]}, "void_ids"),
        ([1, 2], "mapping"),
    ],
)
def test_a_file_that_breaks_the_format_is_refused_by_what_is_wrong(tmp_path, document, said):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(UserError, match=said):
        load_label_space(path)


@pytest.mark.parametrize("given", [{"void_ids": [0]}, {"ids": (1, 2)}])
def test_who_has_void_as_0_is_told_to_renumber(given):
    first, second = given.pop("ids", (0, 1))
    classes = [{"id": first, "name": "a", "color": [0, 0, 0]}, {"id": second, "name": "b", "color": [1, 1, 1]}]
    with pytest.raises(UserError, match=r"ids of classes start at 0: .*renumber them as docs/training\.md") as raised:
        parse_label_space({"name": "mine", "classes": classes, **given}, "mine.yaml")
    assert "\n" not in str(raised.value)


def test_unknown_names_are_refused_with_a_hint():
    assert "camvid11" in list_label_spaces()
    with pytest.raises(UserError, match="did you mean 'camvid11'"):
        load_label_space("camvid12")
    with pytest.raises(UserError, match="did you mean 'road'"):
        load_label_space("camvid11").id_of("rod")


def test_classes_in_any_order_have_the_ids_they_give(tmp_path):
    path = tmp_path / "yard.yaml"
    path.write_text("classes: [{id: 1, name: other, color: [4, 5, 6]}, {id: 0, name: drivable, color: [1, 2, 3]}]\n")
    space = load_label_space(path)
    assert space.names == ("drivable", "other") and space.palette[1].tolist() == [4, 5, 6]
    assert parse_label_space(yaml.safe_load(yaml.safe_dump(space.to_document())), "a card") == space


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "classes: [{id: 3, name: a, color: [0, 0, 0]}, {id: 0, name: b, color: [0, 0, 0]}]",
            r"\[3, 0\]; expected 0 to 1",
        ),
        ("classes: [{id: 0, name: a, color: [0, 0, 0]}, {id: 0, name: b, color: [0, 0, 0]}]", "each once"),
        ("classes: [{id: false, name: a, color: [0, 0, 0]}]", "expected 0 to 0"),
        ("classes: [{id: 0, name: a, color: [0, 0, 0]}, {name: b, color: [0, 0, 0]}]", "1 of 2 classes have an id"),
        (
            "void: [7]\nclasses: [{name: a, color: [0, 0, 0]}]",
            r"no such key 'void' \(did you mean 'void_ids'\?\); there",
        ),
        (
            "ignore_ids: [7]\nclasses: [{name: a, color: [0, 0, 0]}]",
            "no such key 'ignore_ids'.*: name, description, void",
        ),
        ("classes: [{name: a, colour: [0, 0, 0]}]", r"class 'a': no such key 'colour' \(did you mean 'color'"),
        ("name: my yard/4\nclasses: [{name: a, color: [0, 0, 0]}]", "name is 'my yard/4'.*letters, digits, - and _"),
        ("name: ../../evil\nclasses: [{name: a, color: [0, 0, 0]}]", "letters, digits"),
    ],
)
def test_ids_keys_and_names_that_mean_nothing_are_refused(tmp_path, text, said):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        load_label_space(path)


def test_a_name_that_is_left_empty_is_the_files(tmp_path):
    (tmp_path / "mine.yaml").write_text("name:\ndescription:\nclasses: [{name: a, color: [0, 0, 0]}]\n")
    space = load_label_space(tmp_path / "mine.yaml")
    assert (space.name, space.description) == ("mine", "")
