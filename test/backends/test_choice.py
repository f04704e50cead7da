"""Which backend is taken, what is said about it, and what is refused."""

from __future__ import annotations

import importlib
import logging
import sys
from dataclasses import replace

import pytest
import torch

from rt_seg_ros import backends
from rt_seg_ros.backends import check_backend, create_backend, tensorrt_backend
from rt_seg_ros.errors import NoGraph, UserError
from rt_seg_ros.graphs import store
from rt_seg_ros.zoo import find_model

MODULES = {name: f"rt_seg_ros.backends.{name}_backend" for name in ("torch", "openvino", "onnxruntime")}


@pytest.fixture
def card():
    return find_model("cgnet")


def hide(monkeypatch, *names):
    for name in names:
        monkeypatch.setattr(importlib.import_module(MODULES[name]), "unavailable", lambda n=name: f"{n} is hidden")


@pytest.mark.parametrize(
    ("hidden", "taken"),
    [((), "openvino"), (("openvino",), "onnxruntime"), (("openvino", "onnxruntime"), "torch")],
)
def test_on_a_cpu_the_fastest_there_is(card, monkeypatch, caplog, hidden, taken):
    for name in ("openvino", "onnxruntime"):
        pytest.importorskip(name)
    hide(monkeypatch, *hidden)
    with caplog.at_level(logging.INFO):
        backend = create_backend(card, "auto", "cpu")
    assert (backend.name, backend.device, backend.precision) == (taken, "cpu", "fp32")
    said = [record.getMessage() for record in caplog.records if "backend" in record.getMessage()]
    assert len(said) == 1 and f"backend {taken} on cpu, fp32" in said[0]
    assert all(f"{name}: {name} is hidden" in said[0] for name in hidden)  # the reason for each that was passed over


def test_what_cannot_have_its_graph_made_is_passed_over(card, monkeypatch):
    pytest.importorskip("openvino")
    hide(monkeypatch, "onnxruntime")
    monkeypatch.setattr(store._GRAPHS, "load", lambda *_: None)
    monkeypatch.setitem(sys.modules, "onnx", None)  # not installed
    assert create_backend(card, "auto", "cpu").name == "torch"
    with pytest.raises(NoGraph, match="'onnx'"):
        create_backend(card, "openvino", "cpu")


def test_a_gpu_that_is_left_for_the_cpu_is_warned_of(card, monkeypatch, caplog):
    hide(monkeypatch, "openvino", "onnxruntime")
    monkeypatch.setattr(backends, "missing_gpu", lambda: "")
    monkeypatch.setattr(tensorrt_backend, "unavailable", lambda: "TensorRT is hidden")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    create_backend(card)
    (record,) = [r for r in caplog.records if "backend torch on cpu" in r.getMessage()]
    assert record.levelno == logging.WARNING and "sees no GPU here" in record.getMessage()
    caplog.clear()
    create_backend(card, "torch")  # somebody's choice
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_without_any_backend_each_reason_is_told(card, monkeypatch):
    hide(monkeypatch, *MODULES)
    with pytest.raises(UserError) as refusal:
        create_backend(card, "auto", "cpu")
    assert all(f"{name} is hidden" in str(refusal.value) for name in MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_one_that_is_not_installed_is_refused_with_the_remedy(card, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install"):
        create_backend(card, name, "cpu")
    with pytest.raises(UserError, match="pip install"):
        check_backend(name, "cpu", "fp32")


@pytest.mark.parametrize(
    ("backend", "device", "precision", "said"),
    [
        ("abacus", "auto", "fp32", "no backend 'abacus'; there are: auto, torch"),
        ("auto", "npu", "fp32", "no device 'npu'"),
        ("auto", "cuda:x", "fp32", "no device 'cuda:x'"),
        ("auto", "cpu:0", "fp32", "no device 'cpu:0'"),
        ("openvino", "auto", "fp8", "no precision 'fp8'; there are: fp32, bf16, fp16, int8"),
        ("openvino", "cuda", "fp32", "OpenVINO runs on the CPU"),
        ("onnxruntime", "cuda:0", "fp32", "ONNX Runtime runs on the CPU"),
        ("onnxruntime", "cpu", "bf16", "use fp32 or int8"),
        ("onnxruntime", "cpu", "fp16", "use fp32 or int8"),
        ("torch", "cpu", "fp16", "use fp32 or bf16"),
        ("torch", "cpu", "int8", "use openvino or onnxruntime"),
    ],
)
def test_what_cannot_be_had_is_refused(card, backend, device, precision, said):
    if backend in ("openvino", "onnxruntime"):
        pytest.importorskip(backend)
    for ask in (
        lambda: check_backend(backend, device, precision),
        lambda: create_backend(card, backend, device, precision),
    ):
        with pytest.raises(UserError, match=said):
            ask()


def test_a_cpu_without_the_instructions_refuses_bf16(card, monkeypatch):
    from rt_seg_ros.backends import openvino_backend

    pytest.importorskip("openvino")

    class Core:
        def get_property(self, *_):
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino_backend, "_core", Core)
    with pytest.raises(UserError, match="precision 'bf16': this CPU has no instructions for it; use fp32"):
        check_backend("openvino", "cpu", "bf16")


def test_int8_that_nobody_made_is_refused_with_the_command_that_makes_it(card, monkeypatch, tmp_path):
    for name in ("openvino", "onnxruntime"):
        pytest.importorskip(name)
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path))
    for name, kind in (("openvino", "openvino"), ("onnxruntime", "onnx")):
        command = f"rt-seg export --model cgnet_camvid11 --format {kind} --precision int8 --calibration FRAMES"
        with pytest.raises(UserError, match=command):
            create_backend(card, name, "cpu", "int8")
    with pytest.raises(UserError, match=r"no int8 model of 'cgnet_camvid11' for OpenVINO .* for ONNX Runtime"):
        create_backend(card, "auto", "cpu", "int8")
    check_backend("openvino", "cpu", "int8")  # of a model nothing is known yet


def test_weights_that_are_damaged_are_not_passed_over_but_told(card, tmp_path, monkeypatch):
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(card.weights.read_bytes()[:-5])
    with pytest.raises(UserError, match="SHA-256"):
        create_backend(replace(card, weights=weights), "auto", "cpu")


def test_without_a_driver_no_gpu_backend_is_tried(card, monkeypatch):
    monkeypatch.setattr(backends, "missing_gpu", lambda: "no NVIDIA driver here")
    tried = []
    load = backends._load
    monkeypatch.setattr(backends, "_load", lambda name: tried.append(name) or load(name))
    create_backend(card, "auto", "auto")
    assert tried[0] == "openvino"
