"""Engines of every network are built, which TensorRT for RTX does without a GPU; running them takes one."""

from __future__ import annotations

import pytest

from rt_seg_ros.backends.engine_process import EngineProcess
from rt_seg_ros.backends.engines import Engines, EngineSpec, load_tensorrt
from rt_seg_ros.cli import main
from rt_seg_ros.errors import UserError
from rt_seg_ros.networks import list_networks
from rt_seg_ros.zoo import find_model

pytestmark = pytest.mark.tensorrt


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Keep graphs and engines of the tests apart; each network's graph is made once for all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RT_SEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def engines_of(name: str) -> Engines:
    card = find_model(name, "cityscapes19", allow_random_weights=True)
    return Engines(card, load_tensorrt("tensorrt_rtx"), None)


#: Static: every size is in the graph. Dynamic: a profile names the least, best and largest size.
STATIC = EngineSpec((360, 480), (720, 960), precision="fp16", confidence=True)
DYNAMIC = EngineSpec(None, None, precision="fp16")


@pytest.mark.parametrize("spec", [STATIC, DYNAMIC], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", list_networks())
def test_every_network_builds(name, spec):
    """The static one with all that can be in a graph: labels of another size, and confidence."""
    shares: list[float] = []

    def told(share: float) -> bool:
        shares.append(share)
        return True

    assert len(engines_of(name).build(spec, told)) > 1_000_000
    assert shares and shares == sorted(shares) and 0 <= shares[0] and shares[-1] <= 1


def test_an_engine_for_several_frames_builds():
    spec = EngineSpec((128, 256), None, batch=4, precision="fp16")
    assert len(engines_of("cgnet").build(spec)) > 1_000_000


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_build(precision):
    assert len(engines_of("crosscbam_m").build(EngineSpec((128, 256), None, precision=precision))) > 1_000_000


def test_building_can_be_cancelled():
    with pytest.raises(UserError, match="cancelled"):
        engines_of("crosscbam_m").build(EngineSpec((128, 256), None, precision="fp16"), lambda share: False)


def test_a_graph_that_is_none_is_refused(monkeypatch):
    engines = engines_of("crosscbam_m")
    monkeypatch.setattr(engines, "graph", lambda spec: b"no graph")
    with pytest.raises(UserError, match="does not take the graph"):
        engines.build(EngineSpec((128, 256), None, precision="fp16"))


def test_another_process_builds_and_keeps_an_engine_and_tells_how_far_it_is():
    engines = engines_of("crosscbam_m")
    spec = EngineSpec((64, 128), None, precision="fp16")
    shares: list[float] = []
    assert not engines.has(spec) and engines.load(spec) is None
    engine = EngineProcess(engines, spec, shares.append).run()
    assert engines.has(spec) and engines.load(spec) == engine
    assert str(spec) in engines.sizes("fp16")
    assert shares and shares == sorted(shares)


def test_another_process_says_why_it_cannot():
    engines = engines_of("crosscbam_m")
    with pytest.raises(UserError, match="no int8 model of 'crosscbam_m' for TensorRT yet"):
        EngineProcess(engines, EngineSpec((64, 128), None, precision="int8"), lambda share: None).run()


@pytest.mark.parametrize(("model", "precision"), [("cgnet", "fp16"), ("cgnet", "int8"), ("frfnet_slim", "int8")])
def test_export_builds_ahead_and_says_that_the_engine_has_not_run(model, precision, tmp_path, capfd):
    from rt_seg_ros.backends.cuda_driver import missing_gpu

    if not missing_gpu():
        pytest.skip("with a GPU the engine does run; the tests marked gpu see to that")
    out = tmp_path / "an.engine"
    frames = ["--check-frames", "1"] + (["--calibration-frames", "2"] if precision == "int8" else [])
    what = ["--model", model, "--format", "tensorrt", "--size", "120x160", "--precision", precision]
    assert main(["export", *what, *frames, "--out", str(out)]) == 0
    said = capfd.readouterr().out
    assert "graph, by ONNX Runtime: PyTorch's label" in said and "engine: has not run" in said
    engines = Engines(find_model(model), load_tensorrt("tensorrt_rtx"), None)
    assert engines.load(EngineSpec((120, 160), None, precision=precision)) == out.read_bytes()
