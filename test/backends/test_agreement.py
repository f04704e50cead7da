"""Every backend gives the labels of PyTorch in fp32."""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
import pytest
from backend_helpers import cut, lived_in_card, same, street

from rt_seg_ros.backends import create_backend
from rt_seg_ros.backends.graph_backend import GraphBackend
from rt_seg_ros.backends.openvino_backend import _reason
from rt_seg_ros.errors import UserError
from rt_seg_ros.images import Frame
from rt_seg_ros.networks import list_networks
from rt_seg_ros.zoo import find_model, list_models

pytest.importorskip("openvino", reason="needs OpenVINO (pip install openvino)")
pytest.importorskip("onnxruntime", reason="needs ONNX Runtime (pip install onnxruntime)")

OTHERS = ("openvino", "onnxruntime")
SHIPPED = [card.name for card in list_models()]


@pytest.fixture(scope="module")
def card():
    return find_model("cgnet")


@pytest.fixture(scope="module")
def torch_backend(card):
    return create_backend(card, "torch", "cpu")


@pytest.fixture(scope="module", params=OTHERS)
def backend(request, card):
    return create_backend(card, request.param, "cpu")


def labels(backend, *images, sizes=None, confidence=False):
    """Segment images of one size together; labels come at ``sizes``, or the images' own."""
    own = [image.shape[:2] for image in images]
    result = backend.run([Frame(image) for image in images], own[0], sizes or own, confidence)
    return (result.labels, result.confidences) if confidence else result.labels


@lru_cache(maxsize=2 * len(SHIPPED))
def of_torch(model, number):
    """Return labels and confidences of a rendered frame by PyTorch in fp32."""
    return labels(create_backend(find_model(model), "torch", "cpu"), street(number), confidence=True)


@lru_cache(maxsize=1)
def shipped(model, name):
    return create_backend(find_model(model), name, "cpu")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("model", SHIPPED)
@pytest.mark.parametrize("name", OTHERS)
def test_fp32_on_rendered_frames_with_the_shipped_weights(name, model, number):
    backend = shipped(model, name)
    assert (backend.name, backend.precision) == (name, "fp32")
    (ours,), (our_confidence,) = labels(backend, street(number), confidence=True)
    (theirs,), (their_confidence,) = of_torch(model, number)
    assert same(ours, theirs) >= 0.9999
    assert (np.abs(our_confidence.astype(int) - their_confidence) <= 1).mean() >= 0.9999
    assert len(np.unique(ours)) > 5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("model", SHIPPED)
def test_half_precision_on_rendered_frames_with_the_shipped_weights(model, precision):
    try:
        backend = create_backend(find_model(model), "openvino", "cpu", precision)
    except UserError as error:
        assert precision in str(error) and "fp32" in str(error)
        pytest.skip(str(error))
    assert backend.precision == precision
    shares = [same(labels(backend, street(n))[0], of_torch(model, n)[0][0]) for n in range(2)]
    assert min(shares) >= 0.99
    assert max(shares) < 1.0  # were they all the same, it would be fp32


@pytest.mark.parametrize("size", [(101, 67), (96, 129), (64, 64), (120, 160), (233, 311), (101, 67)])
def test_sizes_change_from_frame_to_frame(backend, torch_backend, size):
    """Also odd ones, and more of them than programs are kept."""
    image = cut(*size)
    assert same(labels(backend, image)[0], labels(torch_backend, image)[0]) >= 0.9999
    assert isinstance(backend, GraphBackend)
    assert sum(place.own for place in backend._places.values()) <= 4


def test_more_sizes_than_programs_share_one_and_what_is_idle_makes_room(card):
    compiled = []

    class Counting(GraphBackend):
        name, device, precision = "counting", "cpu", "fp32"

        def compile(self, size):
            compiled.append(size)
            return lambda image: np.ones((1, 2, image.shape[2] // 8, image.shape[3] // 8), np.float32)

    backend = Counting(card)

    def run(*sides):
        for side in sides:
            backend.run([Frame(np.zeros((side, side, 3), np.uint8))], (side, side), [(side, side)], False)

    run(*[64, 72, 80, 88, 96, 104] * 20)
    assert compiled == [(64, 64), (72, 72), (80, 80), (88, 88), None]
    run(*[72] * 100, *[112] * 3, 72)
    assert compiled[5:] == [(112, 112)], "nothing else had come for long"
    assert (64, 64) not in backend._places and {(72, 72), (96, 96)} <= set(backend._places)
    for side in range(200, 900, 8):
        run(72, 80, 88, 112, side)
    assert not compiled[6:] and len(backend._places) <= 64


def test_scores_that_are_no_numbers_are_an_error_and_no_labels(card):
    class Broken(GraphBackend):
        name, device, precision = "broken", "cpu", "fp16"

        def compile(self, size):
            def run(image):
                logits = np.zeros((1, 11, 8, 8), np.float32)
                logits[0, 3, 2, 2] = self.value
                return logits

            return run

    backend = Broken(card)
    for backend.value in (np.nan, np.inf, -np.inf):
        with pytest.raises(FloatingPointError, match="not all numbers, in fp16"):
            labels(backend, cut(64, 64))
    backend.value = 1e30
    assert (labels(backend, cut(64, 64))[0] == 3).any()


def test_frames_are_served_while_another_size_is_compiled(card):
    compiling, go, done = threading.Event(), threading.Event(), []

    class Slow(GraphBackend):
        name, device, precision = "slow", "cpu", "fp32"

        def compile(self, size):
            if size == (32, 32):
                compiling.set()
                assert go.wait(20)
            return lambda image: np.zeros((1, 2, *size), np.float32)

    backend = Slow(card)

    def run(side):
        backend.run([Frame(np.zeros((side, side, 3), np.uint8))], (side, side), [(side, side)], False)
        done.append(side)

    run(16)
    waiting = threading.Thread(target=run, args=(32,))
    waiting.start()
    assert compiling.wait(20)
    for _ in range(3):
        run(16)
    assert done == 4 * [16] and backend.is_ready((16, 16)) and not backend.is_ready((32, 32))
    go.set()
    waiting.join(20)
    assert done[-1] == 32 and backend.is_ready((32, 32)) and set(backend._places) == {(16, 16), (32, 32)}


def test_labels_at_another_size(backend, torch_backend):
    image = cut(96, 128)
    ours, theirs = (labels(b, image, sizes=[(180, 250)])[0] for b in (backend, torch_backend))
    assert ours.shape == (180, 250) and same(ours, theirs) >= 0.9999


def test_a_batch_gives_what_its_frames_give_alone(backend):
    images = [cut(96, 128, 0), cut(96, 128, 1), cut(96, 128, 0)[::-1].copy()]
    alone = [labels(backend, image)[0] for image in images]
    for number in (3, 2):
        together = labels(backend, *images[:number])
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=False))
    assert not np.array_equal(alone[0], alone[1])


def test_several_threads_share_a_backend(backend):
    images = [cut(90, 120, 0), cut(90, 120, 1), cut(75, 100, 0), cut(75, 100, 1)]
    expected = [labels(backend, image)[0] for image in images]
    wrong = []

    def work(number):
        for _ in range(4):
            if not np.array_equal(labels(backend, images[number])[0], expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_label(card, name, threads, torch_backend):
    backend = create_backend(card, name, "cpu", threads=threads)
    image = cut(120, 160)
    assert same(labels(backend, image)[0], labels(torch_backend, image)[0]) >= 0.9999


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Exception from src/inference/src/cpp/core.cpp:117:\nException from src/core/src/allocator.cpp:79:\n"
            "std::bad_alloc\n\n\n",
            "there is not enough memory",
        ),
        (
            "Exception from src/inference/src/cpp/core.cpp:84:\nCheck 'file_exists(path) || exists' failed at "
            'src/frontends/common/src/frontend.cpp:117:\nir: Could not open the file: "x.xml"\n\n',
            'ir: Could not open the file: "x.xml"',
        ),
        ("Exception from src/a.cpp:1:\n", "Exception from src/a.cpp:1:"),
        ("", "RuntimeError"),
    ],
)
def test_what_openvino_says_last_is_told(said, told):
    assert _reason(RuntimeError(said)) == told


def test_openvino_is_told_precision_and_threads(card):
    backend = create_backend(card, "openvino", "cpu", threads=1)
    assert backend._settings["INFERENCE_PRECISION_HINT"] == "f32"  # its own choice would be bf16 where the CPU has it
    assert backend._settings["INFERENCE_NUM_THREADS"] == 1


@pytest.mark.parametrize("network", list_networks())
def test_every_network(network, tmp_path):
    """At a size that no grid and no stride divides."""
    card = lived_in_card(network, tmp_path)
    backends = {name: create_backend(card, name, "cpu") for name in ("torch", *OTHERS)}
    # Random weights leave classes nearly equal, so that rounding decides a pixel here and there. And FFM's masks are
    # steps: rounding may take one or not, and the scores around it change with it.
    least = 0.99 if network.startswith("frfnet") else 0.999
    found = {name: labels(backend, cut(100, 74))[0] for name, backend in backends.items()}
    assert len(np.unique(found["torch"])) > 1
    for name in OTHERS:
        assert same(found[name], found["torch"]) >= least, name
