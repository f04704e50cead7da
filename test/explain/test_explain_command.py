"""``rt-seg explain`` as a user meets it."""

import cv2
import numpy as np
import pytest

from rt_seg_ros import cli
from rt_seg_ros.cli.explain import _input
from rt_seg_ros.zoo import find_model

HEIGHT, WIDTH = 72, 96


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (WIDTH, HEIGHT)))
    return str(path)


def explain(*arguments):
    return cli.main(["explain", *arguments, "--allow-random-weights", "--device", "cpu"])


def test_a_figure_of_two_networks_is_drawn(photo, tmp_path, capsys):
    out = tmp_path / "figure.png"
    layers = "stage2.0,stage2.2,bottom"
    arguments = (photo, "--class", "car", "--model", "cgnet,crosscbam_m", "--layer", layers, "--out", str(out))
    assert explain(*arguments) == 0, capsys.readouterr().err
    assert str(out) in capsys.readouterr().out
    figure = cv2.imread(str(out))
    assert figure.shape[1] > 3 * WIDTH and figure.shape[0] > 2 * HEIGHT  # image and two layers; two rows
    assert explain(*arguments) == 2
    assert f"{out} exists: add --overwrite" in capsys.readouterr().err
    before = out.read_bytes()
    assert explain(*arguments, "--overwrite", "--batch", "3") == 0
    again = cv2.imread(str(out)).astype(int)
    assert again.shape == figure.shape and np.abs(again - figure).mean() < 1, before[:8]
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


def test_the_image_itself_is_never_replaced(photo, tmp_path, capsys):
    before = (tmp_path / "photo.png").read_bytes()
    assert explain(photo, "--class", "car", "--out", "photo.png", "--overwrite") == 2
    assert "would replace the image itself" in capsys.readouterr().err
    assert (tmp_path / "photo.png").read_bytes() == before


def test_the_usual_name_says_what_was_explained(photo, tmp_path):
    assert explain(photo, "--class", "road", "--layer", "stage2.0", "--size", "64x80") == 0
    assert (tmp_path / "photo_road_explained.png").is_file()


def test_layers_are_listed_with_their_stages(photo, capsys):
    assert explain(photo, "--list-layers", "--model", "csrnet_heavy,frfnet") == 0
    text = capsys.readouterr().out
    for expected in ("stages.2.0", "SelectiveResolution", "low-refined, stage 1", "high-refined, stage 3"):
        assert expected in text
    assert "SFM, 1/4 (its input)" in text and "96x72" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class", "caar"], "no class 'caar' (did you mean 'car'?); it has: sky, building"),
        ([], "--class is missing: sky, building"),
        (["--class", "car", "--layer", "stage9"], "no layer 'stage9'"),
        (["--class", "car", "--model", "cgnet,frfnet", "--layer", "stage2.0,nowhere"], "no layer"),
        (["--class", "car", "--model", "cgnett"], "did you mean 'cgnet'"),
        (["--class", "car", "--model", ","], "--model is empty"),
        (["--class", "car", "--model", "cgnet,frfnet", "--weights", "w.safetensors"], "fits one model"),
        (["--class", "car", "--out", "nowhere/figure.png"], "there is no folder"),
        (["--class", "car", "--out", "figure.txt"], "must end in"),
        (["--class", "car", "--batch", "-1"], "--batch is -1"),
        (["--class", "car", "--size", "20x20"], "--size is 20x20: its height is 20; use 64 to 8192 pixels"),
        (["--class", "car", "--label-space", "cityscapes"], "no label space 'cityscapes'"),
    ],
)
def test_errors_name_what_is_wrong_and_what_there_is(photo, capsys, arguments, message):
    assert explain(photo, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_images_that_are_none_are_refused(tmp_path, capsys, photo):
    assert explain(str(tmp_path), "--class", "car") == 2
    assert "explain takes one image" in capsys.readouterr().err
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert explain(str(torn), "--class", "car") == 2
    assert "torn.png" in capsys.readouterr().err


def test_the_network_sees_red_as_red():
    card = find_model("cgnet")
    red = np.zeros((64, 64, 3), np.uint8)
    red[:, :, 2] = 255  # BGR
    planes = _input(card, red, "cpu")[0].numpy() * np.reshape(card.std, (3, 1, 1)) + np.reshape(card.mean, (3, 1, 1))
    assert np.allclose(planes.mean(axis=(1, 2)), [255, 0, 0], atol=0.01)
