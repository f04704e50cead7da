"""``rt-seg export``: files that run elsewhere, held against PyTorch before they are written."""

from __future__ import annotations

import re
from types import ModuleType

import cv2
import numpy as np
import pytest
from backend_helpers import cut, same

from rt_seg_ros import cli
from rt_seg_ros.backends import create_backend
from rt_seg_ros.backends.cuda_driver import missing_gpu
from rt_seg_ros.backends.engines import Engines, EngineSpec
from rt_seg_ros.cache import cache_dir
from rt_seg_ros.errors import UserError
from rt_seg_ros.export import engine, exporting, formats
from rt_seg_ros.export.runners import Runner
from rt_seg_ros.export.samples import _chosen, open_samples
from rt_seg_ros.graphs.store import load_quantised, save_quantised
from rt_seg_ros.images import Frame
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.resampling import Normaliser
from rt_seg_ros.sources import SourceFrame
from rt_seg_ros.zoo import find_model

pytest.importorskip("onnx", reason="needs onnx (pip install onnx)")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime (pip install onnxruntime)")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of small frames."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(12):
        image = cv2.resize(cut(240, 320, number % 2), (160, 120), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{number:02}.png"), np.roll(image, 9 * number, 1))
    return folder


@pytest.fixture
def export(photos, capsys, tmp_path, monkeypatch):
    """Export with frames of our own, from a folder of its own; return the exit status and what was printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        frames = ["--calibration", str(photos), "--check-frames", "3"]
        if "int8" in arguments:
            frames += ["--calibration-frames", "6"]
        status = cli.main(["export", *frames, *map(str, arguments)])
        told = capsys.readouterr()
        return status, told.out + told.err

    return run


@pytest.fixture
def quantised(monkeypatch):
    """In place of int8 models, which take long to make, there are some of the graph as it is; they differ in bytes."""
    made = []

    def quantise(graph, *_, **__):
        made.append(graph + b"\x1a\x02%02d" % len(made))  # as protobuf has it: another version of the producer
        return made[-1]

    monkeypatch.setattr(formats, "quantise_onnx", quantise)
    monkeypatch.setattr(engine, "quantise_onnx", quantise)
    return made


@pytest.fixture
def tensorrt(monkeypatch):
    """A TensorRT for RTX that builds nothing, on a machine without a GPU."""
    module = ModuleType("tensorrt_rtx")
    module.__version__ = "1.7"
    monkeypatch.setattr(engine, "find_tensorrt", lambda *_: (module, None))
    monkeypatch.setattr(Engines, "build", lambda self, spec, _: self.graph(spec))
    return module


@pytest.mark.parametrize("device", ["banana", "cpu", "cuda:1"])
def test_a_device_is_looked_at_also_where_there_is_no_gpu(monkeypatch, device):
    if not missing_gpu():
        pytest.skip("there is a GPU here")
    monkeypatch.setattr(engine, "installed", lambda: ("tensorrt_rtx",))
    with pytest.raises(UserError, match=f"device '{device}'"):
        engine.find_tensorrt(device, "fp16")


def agreement(text):
    return float(re.search(r"PyTorch's label \(fp32\) on ([\d.]+) %", text)[1])


def torch_labels(image):
    backend = create_backend(find_model("cgnet"), "torch", "cpu")
    size = image.shape[:2]
    return backend.run([Frame(image)], size, [size], False).labels[0]


def test_onnx_with_labels_runs_on_a_plain_image(export, tmp_path):
    out = tmp_path / "new" / "net.onnx"
    status, text = export("--model", "cgnet", "--out", out, "--size", "120x160", "--outputs", "labels")
    assert status == 0 and agreement(text) >= 99.99 and f"wrote {out}" in text
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    image = cut(120, 160)
    labels = session.run(None, {session.get_inputs()[0].name: image[None]})[0][0]
    assert same(labels, torch_labels(image)) >= 0.9999
    assert session.get_modelmeta().custom_metadata_map["rt_seg_ros.model"] == "cgnet_camvid11"
    assert [path.name for path in out.parent.iterdir()] == ["net.onnx"]  # nothing is left aside


def test_openvino_in_half_precision(export, tmp_path):
    openvino = pytest.importorskip("openvino", reason="needs OpenVINO (pip install openvino)")
    status, text = export("--model", "cgnet", "--out", tmp_path / "net.xml", "--precision", "fp16")
    assert status == 0 and agreement(text) >= 99.9 and "any size, logits, fp16" in text
    model = openvino.Core().read_model(tmp_path / "net.xml")
    assert model.get_rt_info(["rt_seg_ros", "network"]).astype(str) == "cgnet"
    assert "pedestrian" in model.get_rt_info(["rt_seg_ros", "classes"]).astype(str)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    planes = np.empty((1, 3, 64, 80), np.float32)
    card = find_model("cgnet")
    Normaliser(card.mean, card.std).write(Frame(cut(64, 80)), planes[0])
    assert compiled([planes])[0].shape == (1, 11, 8, 10)


def test_int8_of_openvino_is_a_file_and_kept_for_the_backend(export, tmp_path):
    pytest.importorskip("openvino", reason="needs OpenVINO (pip install openvino)")
    pytest.importorskip("nncf", reason="needs NNCF (pip install nncf)")
    status, text = export("--model", "cgnet", "--format", "openvino", "--precision", "int8")
    assert status == 0 and 90 < agreement(text) < 100, text
    assert "wrote cgnet_camvid11_int8.xml" in text and (tmp_path / "cgnet_camvid11_int8.bin").is_file()
    assert "time of a frame" in text and str(cache_dir()) in text and "mIoU" not in text  # photos have no truth
    backend = create_backend(find_model("cgnet"), "auto", "cpu", "int8")
    assert (backend.name, backend.precision) == ("openvino", "int8")
    image = cut(101, 131)  # a size that it was not calibrated on
    labels = backend.run([Frame(image)], (101, 131), [(101, 131)], False).labels[0]
    assert same(labels, torch_labels(image)) > 0.9


def test_int8_of_openvino_stays_out_of_what_does_not_bear_it(export):
    """FRFNet keeps its labels only with its sums and products in float: by NNCF's own choice they are lost."""
    pytest.importorskip("nncf", reason="needs NNCF (pip install nncf)")
    status, text = export("--model", "frfnet", "--format", "openvino", "--precision", "int8")
    assert status == 0 and 97 < agreement(text) < 100, text


def test_int8_of_onnx_is_a_file_and_kept_for_its_backend(export, tmp_path):
    out = tmp_path / "net.onnx"
    status, text = export("--model", "cgnet", "--out", out, "--precision", "int8")
    assert status == 0 and 90 < agreement(text) < 100, text
    backend = create_backend(find_model("cgnet"), "onnxruntime", "cpu", "int8")
    image = cut(96, 128)
    labels = backend.run([Frame(image)], (96, 128), [(96, 128)], False).labels[0]
    assert same(labels, torch_labels(image)) > 0.9
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["rt_seg_ros.precision"] == "int8"


def test_int8_for_tensorrt_is_symmetric_and_leaves_biases_alone(photos):
    import onnx

    from rt_seg_ros.export.quantise import quantise_onnx
    from rt_seg_ros.export.runners import Preparer
    from rt_seg_ros.graphs.options import GraphOptions
    from rt_seg_ros.graphs.store import load_graph

    card = find_model("cgnet")
    samples = open_samples(photos, None, card.load_label_space(), 3, 1)
    prepare = Preparer(card, GraphOptions())
    model = onnx.load_from_string(quantise_onnx(load_graph(card), samples, prepare, for_tensorrt=True))
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantised = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(quantised) > 100
    zeros = [constants[node.input[2]] for node in quantised]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    assert not [node for node in quantised if constants.get(node.input[0], zeros[0]).dtype == np.int32]


def test_the_cost_in_miou_is_told_where_there_is_truth(tmp_path, capsys):
    status = cli.main(
        ["export", "--model", "cgnet", "--out", str(tmp_path / "net.onnx"), "--size", "96x120", "--check-frames", "3"]
    )
    text = capsys.readouterr().out
    assert status == 0 and "3 frames (rendered streets)" in text
    ours, theirs, cost = re.search(
        r"mIoU on them: ([\d.]+) %, PyTorch in fp32 ([\d.]+) % \(([+-][\d.]+) points\)", text
    ).groups()
    assert 20 < float(theirs) < 100 and float(cost) == pytest.approx(float(ours) - float(theirs), abs=0.011)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--size", "64x96", "--outputs", "labels"], "cgnet_camvid11_64x96_labels.onnx"),
        (["--precision", "int8"], "cgnet_camvid11_int8.onnx"),
    ],
)
def test_without_a_name_the_file_has_the_models(export, quantised, tmp_path, options, name):
    status, text = export("--model", "cgnet", "--format", "onnx", *options)
    assert status == 0 and f"wrote {name}" in text, text
    assert [path.name for path in tmp_path.glob("*.onnx")] == [name]
    kept = load_quantised(find_model("cgnet"), "onnxruntime")
    assert kept == ({"model.onnx": (tmp_path / name).read_bytes()} if quantised else None)


@pytest.mark.parametrize("options", [["--size", "64x96"], ["--outputs", "labels"]])
def test_only_int8_of_any_size_that_gives_logits_is_kept(export, quantised, options):
    status, text = export("--model", "cgnet", "--format", "onnx", "--precision", "int8", *options)
    assert status == 0 and quantised and "kept" not in text, text
    assert load_quantised(find_model("cgnet"), "onnxruntime") is None


def full_disk(*_):
    raise UserError("the disk is full")


def no_labels(self, image):
    return np.zeros(image.shape[:2], np.uint8)


@pytest.mark.parametrize(
    ("place", "name", "fault", "said"),
    [(Runner, "__call__", no_labels, "not written"), (exporting, "write_together", full_disk, "the disk is full")],
)
def test_int8_that_fails_leaves_the_former_in_the_cache(export, quantised, monkeypatch, place, name, fault, said):
    card = find_model("cgnet")
    save_quantised(card, "onnxruntime", {"model.onnx": b"former"})
    monkeypatch.setattr(place, name, fault)
    status, text = export("--model", "cgnet", "--format", "onnx", "--precision", "int8")
    assert status == 2 and said in text, text
    assert quantised and load_quantised(card, "onnxruntime") == {"model.onnx": b"former"}


def no_scores(graph):
    return lambda batch: np.zeros(batch.shape[:3], np.uint8)


@pytest.mark.parametrize(
    ("name", "fault", "said"),
    [("with_onnxruntime", no_scores, "the graph has PyTorch's label on only"), ("write_bytes", full_disk, "disk")],
)
def test_an_int8_engine_that_fails_leaves_the_former_model_in_the_cache(
    export, quantised, tensorrt, monkeypatch, name, fault, said
):
    order = ("--model", "cgnet", "--format", "tensorrt", "--precision", "int8", "--size", "64x96")
    assert export(*order)[0] == 0
    card, spec = find_model("cgnet"), EngineSpec((64, 96), None, precision="int8")
    built = Engines(card, tensorrt, None).load(spec)
    assert built is not None and load_quantised(card, "tensorrt") == {"model.onnx": quantised[0]}

    monkeypatch.setattr(engine, name, fault)
    status, text = export(*order, "--out", "net.engine")
    assert status == 2 and said in text, text
    assert len(quantised) == 2 and load_quantised(card, "tensorrt") == {"model.onnx": quantised[0]}
    assert Engines(card, tensorrt, None).load(spec) == built


def test_an_engine_is_checked_on_all_frames_unless_some_calibrate(export, quantised, tensorrt):
    order = ("--format", "tensorrt", "--size", "64x96", "--label-size", "67x101", "--check-frames")
    status, text = export(*order, 12)
    assert status == 0 and "of 12 frames (photos" in text, text
    status, text = export(*order, 1, "--precision", "int8")
    assert status == 0 and "of 1 frame (photos" in text, text


@pytest.mark.parametrize("form", ["onnx", "openvino", "tensorrt"])
def test_frames_that_cannot_be_read_calibrate_nothing(export, photos, tensorrt, tmp_path, form):
    if form == "openvino":
        pytest.importorskip("nncf", reason="needs NNCF (pip install nncf)")
    torn = tmp_path / "torn"
    torn.mkdir()
    for photo in photos.iterdir():
        (torn / photo.name).write_bytes(photo.read_bytes()[:100])
    status, text = export("--format", form, "--precision", "int8", "--calibration", torn)
    assert status == 2 and "torn: not one frame to calibrate on" in text, text
    assert not list(tmp_path.glob("cgnet*"))


def test_all_frames_are_checked_where_none_is_calibrated_on_and_a_single_one_is_said_to_serve_twice(photos):
    space = find_model("cgnet").load_label_space()
    assert open_samples(photos, None, space, 0, 2).check_count == 2
    one = open_samples(next(photos.iterdir()), None, space, 48, 24)
    assert one.calibration_count == one.check_count == 1 and "the one it was calibrated on" in one.name


def test_what_agrees_too_little_is_not_written(export, tmp_path, monkeypatch):
    out = tmp_path / "net.onnx"
    out.write_bytes(b"an older one")
    monkeypatch.setattr(Runner, "__call__", no_labels)
    status, text = export("--model", "cgnet", "--out", out, "--overwrite", "--check-frames", 1)
    assert status == 2 and "of 1 frame (photos" in text and "not written" in text, text
    assert out.read_bytes() == b"an older one" and len(list(tmp_path.glob("*.onnx*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "x.pb"], "--format is missing; there are: onnx, openvino"),
        (["--format", "tflite", "--out", "x.tflite"], "no format 'tflite'"),
        (["--format", "openvino", "--out", "x.onnx"], "a file of format 'openvino' ends in .xml"),
        (["--out", "x.onnx", "--model", "cgnett"], "did you mean 'cgnet'"),
        (["--out", "x.onnx", "--model", "frfnet", "--label-space", "cityscapes19"], "no weights for label space"),
        (["--out", "x.onnx", "--batch", "2"], "batch is 2"),
        (["--out", "x.onnx", "--opset", "3"], "opset is 3"),
        (["--out", "x.onnx", "--opset", "0"], "opset is 0"),
        (["--out", "x.onnx", "--size", "48x64"], "use 64 to 8192"),
        (["--out", "x.onnx", "--device", "cuda"], "--device is for --format tensorrt alone"),
        (["--out", "x.onnx", "--label-size", "64x64"], "--label-size is for --format tensorrt alone"),
        (["--format", "tensorrt", "--opset", "17"], "--opset is for files of ONNX and OpenVINO"),
        (["--out", "x.engine", "--outputs", "logits"], "--outputs is for files of ONNX and OpenVINO"),
        (
            ["--format", "tensorrt", "--size", "64x64", "--label-size", "64x9000"],
            "--label-size is 64x9000; each side must be 1 to 8192",
        ),
        (["--out", "x.onnx", "--split", "train"], "--split names a part of --calibration"),
        (["--out", "x.onnx", "--calibration", "nowhere"], "there is nothing at nowhere"),
        (["--out", "x.onnx", "--calibration-frames", "9"], "--calibration-frames is for --precision int8"),
        (["--out", "x.onnx", "--check-frames", "0"], "must be 1 or more"),
        (["--out", "there.onnx"], "add --overwrite"),
        (["--out", "there.onnx/x.onnx"], "there.onnx is a file; give a folder"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").write_bytes(b"")
    monkeypatch.setattr(exporting, "check", lambda *_, **__: pytest.fail("work was done"))
    assert cli.main(["export", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]


def test_the_weights_beside_an_xml_are_not_replaced_unasked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rt_seg_ros.export.exporting.export_model", lambda *_: pytest.fail("work was begun"))
    (tmp_path / "net.bin").write_bytes(b"another's")
    assert cli.main(["export", "--out", str(tmp_path / "net.xml")]) == 2
    assert f"{tmp_path / 'net.bin'} exists: add --overwrite" in capsys.readouterr().err


def test_without_nncf_int8_names_it(export, monkeypatch):
    pytest.importorskip("openvino", reason="needs OpenVINO (pip install openvino)")
    import sys

    monkeypatch.setitem(sys.modules, "nncf", None)
    status, text = export("--model", "cgnet", "--format", "openvino", "--precision", "int8")
    assert status == 2 and "pip install nncf" in text


def test_frames_to_calibrate_and_to_check_are_others(photos):
    samples = open_samples(photos, None, load_label_space("camvid11"), calibration=5, check=3)
    calibration = list(samples.calibration())
    check = [sample.image for sample in samples.check()]
    assert len(calibration) == samples.calibration_count == 5 and len(check) == samples.check_count == 3
    assert not any(np.array_equal(a, b) for a in calibration for b in check)
    assert len(list(samples.calibration())) == 5  # once more


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 24, 25, 48, 72, 73, 500, 100_000])
@pytest.mark.parametrize(("calibration", "check"), [(48, 24), (1, 1), (6, 96), (100, 1)])
def test_frames_are_chosen_over_the_whole_length(total, calibration, check):
    to_calibrate, to_check = _chosen(total, calibration, check)
    assert to_calibrate == sorted(set(to_calibrate)) and to_check == sorted(set(to_check))
    assert 1 <= len(to_calibrate) <= max(calibration, 3) and 1 <= len(to_check) <= max(check, 3)
    if total >= 4:
        assert not set(to_calibrate) & set(to_check)
    assert max(to_calibrate + to_check) < total
    if total > calibration + check > 20:
        assert max(to_calibrate + to_check) > 0.9 * total - 10


@pytest.mark.parametrize("length", [1, 7, 40])
def test_frames_of_a_video_that_does_not_tell_its_length(tmp_path, length):
    av = pytest.importorskip("av")
    with av.open(tmp_path / "clip.mkv", "w", format="matroska", options={"live": "1"}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for number in range(length):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 6 * number, np.uint8), format="bgr24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    samples = open_samples(tmp_path / "clip.mkv", None, load_label_space("camvid11"), calibration=6, check=3)
    seen = [round(image.mean() / 6) for image in samples.calibration()]
    others = [round(sample.image.mean() / 6) for sample in samples.check()]
    assert len(seen) == samples.calibration_count and len(others) == samples.check_count
    assert len(seen) + len(others) == {1: 2, 7: 7, 40: 9}[length]
    assert max(seen + others) >= 0.8 * length - 1


def test_a_video_without_a_frame_is_refused(tmp_path, monkeypatch):
    (tmp_path / "clip.mkv").write_bytes(b"")
    monkeypatch.setattr("rt_seg_ros.video.VideoReader.__init__", lambda self, _: setattr(self, "frame_count", 0))
    monkeypatch.setattr("rt_seg_ros.sources._Video.__iter__", lambda _: iter([SourceFrame("0", problem="torn")]))
    with pytest.raises(UserError, match=r"clip\.mkv has no frames"):
        open_samples(tmp_path / "clip.mkv", None, load_label_space("camvid11"))


def test_a_recorded_drive_with_truth(tmp_path):
    from rt_seg_ros.data.drives import write_synthetic_drive

    drive = write_synthetic_drive(tmp_path / "drive", frames=6, size=(48, 64)).path
    samples = open_samples(drive, None, load_label_space("camvid11"), calibration=3, check=2)
    assert all(sample.truth is not None and sample.truth.shape == (48, 64) for sample in samples.check())
    assert len(list(samples.calibration())) == 3


def test_a_data_set_with_several_splits_asks_which(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / f"{split}annot").mkdir()
        cv2.imwrite(str(tmp_path / split / "a.png"), cut(64, 64))
        cv2.imwrite(str(tmp_path / f"{split}annot" / "a.png"), np.zeros((64, 64), np.uint8))
    space = load_label_space("camvid11")
    with pytest.raises(UserError, match="has several splits: name one of train, val"):
        open_samples(tmp_path, None, space)
    assert len(list(open_samples(tmp_path, "val", space).check())) == 1
