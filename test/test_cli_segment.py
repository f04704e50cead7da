"""rt-seg segment, on real files with a real network (of random weights where the package has none)."""

import os

import cv2
import numpy as np
import pytest

from rt_seg_ros.bags import BagWriter, open_bag
from rt_seg_ros.cli import main
from rt_seg_ros.cli.segment import _write_image
from rt_seg_ros.drawing import colourise, overlay
from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.masks import decode_runs
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.sources import open_source
from rt_seg_ros.video import VideoReader, VideoWriter

SPACE = load_label_space("camvid11")
HEIGHT, WIDTH = 80, 112


def picture(number):
    """A street of sorts, another one for each number."""
    image = np.random.default_rng(number).integers(0, 60, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image[:30] += 150
    image[40:, 20 + 5 * number : 60 + 5 * number] += 90
    return image


@pytest.fixture(scope="module", name="expected")
def _expected():
    """Labels as the pipeline gives them."""
    segmenter = Segmenter(SegmenterConfig(allow_random_weights=True))
    return lambda image: segmenter.segment(image).labels


@pytest.fixture(name="here")
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def segment(*arguments):
    return main(["segment", *map(str, arguments), "--allow-random-weights"])


def read(path):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return image


def tree(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_an_image(here, expected, capsys):
    cv2.imwrite("street.png", picture(0))
    before = (here / "street.png").read_bytes()
    assert segment("street.png") == 0
    out = here / "street_segmented"
    assert tree(out) == ["street_color.png", "street_label.png", "street_overlay.jpg"]
    labels = read(out / "street_label.png")
    assert labels.dtype == np.uint8 and np.array_equal(labels, expected(picture(0)))
    assert np.array_equal(read(out / "street_color.png"), colourise(labels, SPACE))
    drawn = overlay(picture(0), labels, SPACE)
    assert np.abs(read(out / "street_overlay.jpg").astype(int) - drawn).mean() < 12
    assert (here / "street.png").read_bytes() == before
    said = capsys.readouterr().out
    assert "1 frame in" in said and "the first run" in said and "street_segmented/street_label.png" in said


def test_what_to_write_can_be_chosen(here):
    cv2.imwrite("street.png", picture(0))
    assert segment("street.png", "--no-color", "--no-overlay", "--confidence", "--out", "a/b") == 0
    assert tree(here / "a/b") == ["street_confidence.png", "street_label.png"]
    confidence = read(here / "a/b/street_confidence.png")
    assert confidence.shape == (HEIGHT, WIDTH) and confidence.max() > 20


def test_a_confidence_threshold_leaves_pixels_unlabelled(here):
    cv2.imwrite("street.png", picture(0))
    assert segment("street.png", "--confidence-threshold", 1, "--out", "o") == 0
    assert (read("o/street_label.png") == 255).mean() > 0.5


@pytest.mark.parametrize("option", [("--downsampling-ratio", "0.5"), ("--ratio", "0.5"), ("--size", "64x96")])
def test_labels_have_the_images_size_whatever_the_network_works_at(here, option):
    cv2.imwrite("street.png", cv2.resize(picture(0), (200, 150)))
    assert segment("street.png", *option, "--out", "o") == 0
    assert read("o/street_label.png").shape == (150, 200)


def test_a_folder_with_a_broken_image(here, expected, capsys):
    photos = here / "photos"
    (photos / "more").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.bmp", "more/c.png"]):
        cv2.imwrite(str(photos / name), picture(number))
    (photos / "broken.jpg").write_bytes((photos / "a.png").read_bytes()[:300])
    (photos / "notes.txt").write_text("no image")
    assert segment("photos", "--out", "o") == 1
    assert tree(here / "o") == sorted(
        [
            f"{k}/{n}.{s}"
            for k, s in (("label", "png"), ("color", "png"), ("overlay", "jpg"))
            for n in ("a", "b", "more/c")
        ]
    )
    for number, name in enumerate(["a", "b", "more/c"]):
        assert np.array_equal(read(f"o/label/{name}.png"), expected(picture(number)))
    said = capsys.readouterr()
    assert "3 frames in" in said.out and "o/label (3 images)" in said.out
    assert "photos/broken.jpg" in said.err and "skipped: 1 that could not be read" in said.err


def test_what_an_earlier_run_left_among_the_results_is_told(here, capsys):
    for name in ("a", "b"):
        (here / name).mkdir()
        cv2.imwrite(f"{name}/{name}.png", picture(0))
        assert segment(name, "--out", "o", "--no-color", "--overwrite") == 0
    said = capsys.readouterr().out
    assert "label: o/label (1 images)\n" in said
    assert "label: o/label (1 images, beside 1 that were there before)" in said
    assert tree(here / "o") == ["label/a.png", "label/b.png", "overlay/a.jpg", "overlay/b.jpg"]


def test_files_of_one_stem_do_not_overwrite_each_other(here):
    (here / "p").mkdir()
    cv2.imwrite("p/a.png", picture(0))
    cv2.imwrite("p/a.bmp", picture(1))
    assert segment("p", "--out", "o", "--no-color", "--no-overlay") == 0
    assert tree(here / "o") == ["label/a.bmp.png", "label/a.png.png"]


def test_files_whose_stem_is_another_files_name_have_names_of_their_own(here):
    (here / "p").mkdir()
    for number, name in enumerate(("photo.png", "photo.png.jpg", "photo.jpg", "other.jfif")):
        (here / "p" / name).write_bytes(cv2.imencode(f".{name[-3:]}" if number < 3 else ".jpg", picture(number))[1])
    names = [item.name for item in open_source("p")]
    assert names == ["other", "photo.jpg", "photo.png", "photo.png.jpg"]
    (here / "p/photo.jpg").unlink()
    assert [item.name for item in open_source("p")] == ["other", "photo", "photo.png.jpg"]


def test_a_folders_name_has_no_suffix(here):
    (here / "v1.0").mkdir()
    cv2.imwrite("v1.0/a.png", picture(0))
    assert segment("v1.0", "--no-color", "--no-overlay") == 0
    assert tree(here) == ["v1.0/a.png", "v1.0_segmented/label/a.png"]
    assert open_source("v1.0").stem == "v1.0" and open_source("v1.0/a.png").stem == "a"


def test_an_image_that_no_jpeg_holds_is_skipped(here, capsys):
    (here / "p").mkdir()
    cv2.imwrite("p/a.png", picture(0))
    cv2.imwrite("p/wide.png", np.full((64, 66_000, 3), 90, np.uint8))
    assert segment("p", "--out", "o") == 1
    assert tree(here / "o") == ["color/a.png", "label/a.png", "overlay/a.jpg"]
    said = capsys.readouterr().err
    assert "skipped: wide: 66000x64 pixels are more than" in said and "Traceback" not in said


def test_what_opencv_cannot_encode_is_told(tmp_path):
    with pytest.raises(UserError, match=r"wide\.jpg cannot be written: OpenCV cannot encode 66000x2 pixels"):
        _write_image(tmp_path / "wide.jpg", np.zeros((2, 66_000, 3), np.uint8))


def test_a_run_that_fails_leaves_no_folder_that_it_made(here):
    (here / "torn.png").write_bytes(b"nothing")
    (here / "mine").mkdir()
    for out in ("a/b", "mine"):
        assert segment("torn.png", "--out", out) == 2
    assert segment("torn.png") == 2
    assert sorted(p.name for p in here.iterdir()) == ["mine", "torn.png"]


def test_images_of_other_sizes_and_kinds(here):
    (here / "p").mkdir()
    cv2.imwrite("p/grey.png", picture(0)[:, :, 0])
    cv2.imwrite("p/alpha.png", cv2.cvtColor(picture(0), cv2.COLOR_BGR2BGRA))
    cv2.imwrite("p/deep.png", picture(0).astype(np.uint16) * 257)
    cv2.imwrite("p/odd.png", picture(0)[:71, :97])
    assert segment("p", "--out", "o") == 0
    assert read("o/label/odd.png").shape == (71, 97)
    assert read("o/overlay/grey.jpg").shape == (HEIGHT, WIDTH, 3)


def test_results_inside_the_source_are_not_taken_for_images(here):
    cv2.imwrite("a.png", picture(0))
    assert segment(".", "--out", ".") == 0
    assert segment(".", "--out", ".", "--overwrite") == 0
    assert tree(here) == ["a.png", "color/a.png", "label/a.png", "overlay/a.jpg"]


def test_the_folder_one_is_in_gets_its_results_beside_it(here, monkeypatch):
    (here / "photos/more").mkdir(parents=True)
    cv2.imwrite("photos/a.png", picture(0))
    monkeypatch.chdir(here / "photos/more")
    assert segment("..", "--no-color") == 0
    monkeypatch.chdir(here / "photos")
    assert segment(".", "--no-color", "--overwrite") == 0
    assert tree(here) == ["photos/a.png", "photos_segmented/label/a.png", "photos_segmented/overlay/a.jpg"]


def test_what_an_earlier_run_wrote_is_not_taken_for_images(here, capsys):
    (here / "p/more").mkdir(parents=True)
    for number, name in enumerate(["a.png", "more/b.png"]):
        cv2.imwrite(f"p/{name}", picture(number))
    assert segment("p", "--out", "p/one", "--confidence") == 0
    assert segment("p/a.png", "--out", "p/more") == 0
    assert segment("p/a.png", "--out", "p/a_segmented", "--no-overlay", "--no-color") == 0
    assert segment("p", "--out", "p/p_segmented", "--no-overlay") == 0
    capsys.readouterr()
    assert segment("p", "--out", "o", "--no-color", "--no-overlay") == 0
    assert tree(here / "o") == ["label/a.png", "label/more/b.png"]
    assert f"left out: {8 + 3 + 1 + 4} images that an earlier rt-seg segment wrote" in capsys.readouterr().err


def test_folders_of_the_same_names_that_others_wrote_are_images(here):
    for name in ("p/color/a.png", "p/label/a.png", "p/overlay/b.jpg", "p/street_color.png"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(name, picture(0))
    assert [item.name for item in open_source("p")] == ["color/a", "label/a", "overlay/b", "street_color"]


def test_a_folder_is_what_is_in_it_links_too_and_no_pipes(here, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (here / "p/sub.png").mkdir(parents=True)
    os.mkfifo(here / "p/pipe.png")
    for name in (here / "p/a.png", elsewhere / "b.png"):
        cv2.imwrite(str(name), picture(0))
    (here / "p/link").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(here / "p")
    (here / "p/gone.png").symlink_to(here / "nowhere.png")
    assert [item.name for item in open_source("p")] == ["a", "link/b"]


def test_names_may_be_long_and_begin_with_a_dash(here):
    (here / "p").mkdir()
    long = "n" * 245
    for name in (f"p/{long}.png", "-dash.png"):
        cv2.imwrite(name, picture(0))
    assert segment("p", "--out", "o", "--no-color") == 0
    assert tree(here / "o") == [f"label/{long}.png", f"overlay/{long}.jpg"]
    assert main(["segment", "--out", "o2", "--no-color", "--", "-dash.png"]) == 0 and len(tree(here / "o2")) == 2


def test_a_single_image_is_segmented_once(here, monkeypatch):
    sizes = []
    whole = Segmenter.segment
    monkeypatch.setattr(Segmenter, "segment", lambda self, f, c=False: sizes.append(f.height) or whole(self, f, c))
    cv2.imwrite("street.png", picture(0))
    assert segment("street.png") == 0
    assert sizes == [HEIGHT]


def test_what_is_there_is_kept_unless_told(here, capsys):
    cv2.imwrite("street.png", picture(0))
    (here / "o").mkdir()
    (here / "o/street_label.png").write_bytes(b"precious ground truth")
    assert segment("street.png", "--out", "o") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (here / "o/street_label.png").read_bytes() == b"precious ground truth"
    assert segment("street.png", "--out", "o", "--overwrite") == 0
    assert read("o/street_label.png").shape == (HEIGHT, WIDTH)


def test_the_source_is_never_written_over(here, capsys):
    (here / "label").mkdir()
    cv2.imwrite("label/a.png", picture(0))
    before = (here / "label/a.png").read_bytes()
    assert segment("label", "--out", ".", "--overwrite") == 2
    assert (here / "label/a.png").read_bytes() == before


@pytest.fixture(name="video")
def _video(here):
    with VideoWriter(here / "drive.mp4", fps=20) as writer:
        for number in range(8):
            writer.write(picture(number % 6), seconds=number / 20 + (0.3 if number > 4 else 0))
    return here / "drive.mp4"


def test_a_video(here, video, expected, capsys):
    assert segment(video, "--out", "o") == 0
    assert tree(here / "o") == ["drive_overlay.mp4"]
    frames, source = list(VideoReader(here / "o/drive_overlay.mp4")), list(VideoReader(video))
    assert [t for t, _ in frames] == pytest.approx([t for t, _ in source], abs=0.002)
    for (_, drawn), (_, image) in zip(frames, source, strict=True):
        plain = overlay(image, expected(image), SPACE, legend=False)
        assert np.abs(drawn[:, 80:].astype(int) - plain[:, 80:]).mean() < 25
    assert "8 frames in" in capsys.readouterr().out


def test_label_images_of_a_video(here, video, expected):
    assert segment(video, "--out", "o", "--labels", "--no-overlay") == 0
    assert tree(here / "o") == [f"label/{n:06d}.png" for n in range(8)]
    third = [image for _, image in VideoReader(video)][3]
    assert np.array_equal(read("o/label/000003.png"), expected(third))


def test_a_video_that_breaks_off_is_told(here, video, capsys):
    data = video.read_bytes()
    (here / "torn.mp4").write_bytes(data[: len(data) * 2 // 3])
    source = open_source(here / "torn.mp4")
    good = sum(1 for item in source if item.frame is not None)
    assert 0 < good < 8
    status = segment("torn.mp4", "--out", "o")
    assert tree(here / "o") == ["torn_overlay.mp4"]
    assert status in (0, 1)  # a few frames lost at the end cannot be told from an edit list


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.png"], "nothing at nowhere.png"),
        (["notes.txt"], "no kind that is known"),
        (["empty"], "no image in empty"),
        (["broken.png"], "not one frame"),
        (["broken.mp4"], "cannot be read as a video"),
        (["street.png", "--topic", "/camera"], "not a rosbag2"),
        (["street.png", "--bag", "x.mcap"], "--bag needs a rosbag2"),
        (["street.png", "--no-labels", "--no-color", "--no-overlay"], "nothing to write"),
        (["street.png", "--out", "notes.txt"], "is a file"),
        (["street.png", "--size", "96x128", "--ratio", "0.5"], "--size 96x128 and --ratio 0.5 both name a size"),
        (["street.png", "--overlay-alpha", "2"], "--overlay-alpha is 2.0"),
        (["street.png", "--size", "100x160"], "its height is 100; use a multiple of 8, such as 96 or 104"),
        (["street.png", "--size", "2x2"], "use 64 to"),
        (["street.png", "--model", "cgnett"], "did you mean 'cgnet'"),
    ],
)
def test_a_users_error_is_said_plainly(here, capsys, arguments, says):
    cv2.imwrite("street.png", picture(0))
    (here / "notes.txt").write_text("words")
    (here / "empty").mkdir()
    (here / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    (here / "broken.mp4").write_bytes(b"no video")
    assert segment(*arguments) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert not list(here.rglob("*.part"))


def test_a_size_that_is_none_is_explained(here, capsys):
    with pytest.raises(SystemExit) as end:
        segment("street.png", "--size", "360")
    assert end.value.code == 2
    assert "360x480" in capsys.readouterr().err


def test_the_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        main(["segment", "--help"])
    said = capsys.readouterr().out
    assert "rt-seg segment photo.jpg" in said and "--downsampling-ratio" in said


def write_drive(path, count=5):
    with BagWriter(path) as writer:
        for number in range(count):
            stamp = 1_700_000_000_000_000_000 + number * 100_000_000
            writer.add_image("/camera/image_raw", stamp, "camera_optical_frame", picture(number))
    return path


@pytest.mark.parametrize("name", ["drive.mcap", "drive", "drive.db3"])
def test_a_drive(here, expected, capsys, name):
    write_drive(here / name)
    assert segment(name, "--out", "o", "--labels", "--confidence", "--bag", "o/result.mcap") == 0
    assert tree(here / "o") == sorted(
        [f"{kind}/{n:06d}.png" for kind in ("label", "confidence") for n in range(5)]
        + ["drive_overlay.mp4", "result.mcap"]
    )
    said = capsys.readouterr().out
    assert "5 frames in" in said and "recording: o/result.mcap" in said
    assert [t for t, _ in VideoReader(here / "o/drive_overlay.mp4")] == pytest.approx(
        [n / 10 for n in range(5)], abs=0.01
    )

    with open_bag(here / "o/result.mcap") as bag:
        assert set(bag.topics) == {
            f"/segmentation/{t}" for t in ("label", "label_info", "overlay", "confidence", "class_masks")
        }
        results = list(bag.labels("/segmentation/label"))
        assert [stamp for stamp, _, _ in results] == [1_700_000_000_000_000_000 + n * 100_000_000 for n in range(5)]
        assert {frame_id for _, frame_id, _ in results} == {"camera_optical_frame"}
        for number, (_, _, labels) in enumerate(results):
            assert np.array_equal(labels, expected(picture(number)))
            assert np.array_equal(labels, read(f"o/label/{number:06d}.png"))
        for (_, _, labels), (_, stamp, message) in zip(
            results, bag.messages(["/segmentation/class_masks"]), strict=True
        ):
            assert (message.height, message.width) == labels.shape
            assert message.header.stamp.sec == stamp // 10**9
            rebuilt = np.full(labels.shape, 255, np.uint8)
            for mask in message.masks:
                assert mask.name == SPACE.names[mask.id]
                rebuilt[decode_runs(mask.runs, message.height, message.width) > 0] = mask.id
                box = mask.bounding_box
                inside = labels[box.y_offset : box.y_offset + box.height, box.x_offset : box.x_offset + box.width]
                assert (inside == mask.id).sum() == mask.pixel_count == (labels == mask.id).sum()
            assert np.array_equal(rebuilt, labels)
        ((_, _, info),) = bag.messages(["/segmentation/label_info"])
        named = [*((c.id, c.name) for c in SPACE.classes), (255, "unlabelled")]
        assert [(c.class_id, c.class_name) for c in info.class_map] == named


def test_a_wrong_stamp_does_not_stop_a_drives_video(here):
    start = 1_700_000_000_000_000_000
    with BagWriter(here / "drive.mcap") as writer:
        for number in range(5):
            wrong = 10**12 if number == 2 else 0
            stamp = start + number * 10**8
            writer.add_image("/camera/image_raw", stamp + wrong, "c", picture(number), recorded_ns=stamp)
    assert segment("drive.mcap", "--out", "o") == 0
    assert [t for t, _ in VideoReader(here / "o/drive_overlay.mp4")] == pytest.approx(
        [0, 0.1, 0.15, 0.3, 0.4], abs=0.01
    )


def test_a_drive_with_several_cameras_wants_a_topic(here, capsys):
    with BagWriter(here / "two.mcap") as writer:
        for topic in ("/left/image_raw", "/right/image_raw"):
            writer.add_image(topic, 10**18, "c", picture(0))
    assert segment("two.mcap", "--out", "o") == 2
    assert "/left/image_raw, /right/image_raw" in capsys.readouterr().err
    assert segment("two.mcap", "--out", "o", "--topic", "/none") == 2
    assert "has no topic '/none'" in capsys.readouterr().err
    assert segment("two.mcap", "--out", "o", "--topic", "/left/image_raw") == 0


def test_images_of_a_drive_that_cannot_be_used_are_skipped(here, capsys):
    with BagWriter(here / "drive.mcap") as writer:
        for number in range(4):
            _, jpeg = cv2.imencode(".jpg", picture(number))
            data = jpeg.tobytes() if number != 2 else b"\xff\xd8 torn"
            writer.add_compressed_image("/camera/image_raw/compressed", 10**18 + number, "c", data, "bgr8; jpeg")
    assert segment("drive.mcap", "--out", "o", "--labels", "--no-overlay") == 1
    assert tree(here / "o") == ["label/000000.png", "label/000001.png", "label/000003.png"]
    assert "image 2 of /camera/image_raw/compressed" in capsys.readouterr().err


def test_a_drive_that_was_cut_off_is_segmented_as_far_as_it_goes(here, capsys):
    data = write_drive(here / "whole.mcap", count=30).read_bytes()
    (here / "cut.mcap").write_bytes(data[: len(data) * 2 // 3])
    assert segment("cut.mcap", "--out", "o", "--labels", "--no-overlay") == 1
    assert len(tree(here / "o")) > 0
    assert "was cut off" in capsys.readouterr().err


def test_a_folder_that_holds_the_source_is_not_replaced(here, capsys):
    (here / "drive").mkdir()
    before = write_drive(here / "drive" / "drive.mcap").read_bytes()
    assert segment("drive/drive.mcap", "--out", "o", "--bag", "drive", "--overwrite") == 2
    assert "would replace the source" in capsys.readouterr().err
    assert (here / "drive" / "drive.mcap").read_bytes() == before


def test_a_recording_is_not_replaced_and_none_is_left_half_written(here, capsys):
    write_drive(here / "drive.mcap")
    before = (here / "drive.mcap").read_bytes()
    assert segment("drive.mcap", "--out", "o", "--bag", "drive.mcap", "--overwrite") == 2
    assert "would replace the source" in capsys.readouterr().err
    assert (here / "drive.mcap").read_bytes() == before
    with BagWriter(here / "rec") as bag:
        bag.add_image("/camera/image_raw", 10**18, "camera", picture(0))
    for name in ("rec/rec.mcap", "rec/other.mcap"):
        assert segment("rec", "--out", "o2", "--bag", name, "--overwrite") == 2
    assert "would lie in the source's folder" in capsys.readouterr().err and len(list((here / "rec").iterdir())) == 2
    (here / "result.mcap").write_bytes(b"")
    assert segment("drive.mcap", "--out", "o", "--bag", "result.mcap") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert segment("drive.mcap", "--out", "o", "--bag", "result.mcap", "--overwrite") == 0
    assert not [p for p in here.rglob("*") if p.name.startswith(".")]


def test_a_recording_s_own_times_are_those_of_what_is_made_of_it(here):
    """A stamp may be anything; what is written is to be played."""
    start = 1_700_000_000 * 10**9
    with BagWriter("drive.mcap") as bag:
        for i in range(5):
            stamp = 5 * 10**9 if i == 2 else start + i * 10**8
            bag.add_image("/camera/image_raw", stamp, "camera", picture(i), recorded_ns=start + i * 10**8)
    assert segment("drive.mcap", "--bag", "out.mcap", "--out", "o") == 0
    with open_bag("out.mcap") as bag:
        assert bag.duration_ns < 10**9
        stamps = [stamp for stamp, _, _ in bag.labels("/segmentation/label")]
    assert stamps == [5 * 10**9 if i == 2 else start + i * 10**8 for i in range(5)]
    assert len(list(VideoReader(here / "o" / "drive_overlay.mp4"))) == 5


def test_a_recording_that_is_damaged_in_its_midst_is_segmented_so_far(here, capsys):
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    from rt_seg_ros.bags.types import typestore

    types = typestore()
    kinds = types.types
    writer = Writer(here / "drive", version=8, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        camera = writer.add_connection("/camera/image_raw", "sensor_msgs/msg/Image", typestore=types)
        for i in range(120):
            # What can be packed, so that damage shows.
            pixels = (np.arange(HEIGHT * WIDTH * 3) // 7 * (i + 1) % 251).astype(np.uint8)
            stamp = kinds["builtin_interfaces/msg/Time"](sec=i + 1, nanosec=0)
            header = kinds["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")
            image = kinds["sensor_msgs/msg/Image"](header, HEIGHT, WIDTH, "bgr8", 0, WIDTH * 3, pixels)
            writer.write(camera, (i + 1) * 10**9, types.serialize_cdr(image, "sensor_msgs/msg/Image"))
    (file,) = (here / "drive").glob("*.mcap")
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    file.write_bytes(data)
    assert segment("drive", "--bag", "out.mcap", "--out", "o") == 1
    said = capsys.readouterr()
    assert "is damaged" in said.err and "images before that were read" in said.err
    with open_bag("out.mcap") as bag:
        assert 20 < bag.topics["/segmentation/label"].count < 120
    assert (here / "o" / "drive_overlay.mp4").stat().st_size > 1000


def test_the_overlay_is_as_strong_as_asked_for_and_without_a_legend_where_none_is_wanted(here, expected):
    cv2.imwrite("street.png", picture(0))
    arguments = ("street.png", "--no-color", "--overlay-alpha", "0", "--out")
    assert segment(*arguments, "bare", "--no-legend") == segment(*arguments, "named") == 0
    bare, named = (read(here / out / "street_overlay.jpg").astype(int) for out in ("bare", "named"))
    assert np.abs(bare - picture(0)).mean() < 12 and np.abs(bare - named).max() > 60
