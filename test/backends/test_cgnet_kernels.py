"""CGNet's kernels: held against the plain network, in Triton's interpreter; compiled for GPUs not here."""

from __future__ import annotations

import importlib.util
import logging

import numpy as np
import pytest
import torch
from backend_helpers import gpu_target, interprets
from torch import nn

from rt_seg_ros.networks.cgnet import CGNet

if importlib.util.find_spec("triton") is None:
    pytest.skip("needs Triton, which comes with PyTorch for CUDA", allow_module_level=True)

FLOATS = ("*fp32", "*fp16", "*bf16")


def folded(dtype: torch.dtype = torch.float32, **options) -> CGNet:
    """Return a network with norms and slopes that are not all alike, folded."""
    torch.manual_seed(0)
    network = CGNet(5, **{"m": 2, "n": 2, **options})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.2, 0.5)
    return network.fuse().to(dtype, memory_format=torch.channels_last)


def images(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)


# --- what they are for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"global_context": False}, {"residual": "local"}, {"residual": "none"}, {"extra_conv": True}],
    ids=lambda options: next(iter(options)),
)
def test_variants_that_they_are_not_for_are_left_alone(options):
    from rt_seg_ros.backends.cgnet_kernels import accelerate, fits, works

    network = folded(**options)
    assert not fits(network) and not works(network, torch.float32, "cpu")
    assert accelerate(network) == network.logits


def test_they_are_for_the_paper_s_network_once_its_norms_are_folded():
    from rt_seg_ros.backends.cgnet_kernels import fits

    assert fits(folded()) and fits(folded(activation="relu", surrounding="single", input_injection=False, dropout=0.1))
    assert not fits(CGNet(5)) and not fits(CGNet(5).eval()) and not fits(folded().double()) and not fits(nn.ReLU())


def test_where_they_do_not_work_the_log_says_why(monkeypatch, caplog):
    from rt_seg_ros.backends import cgnet_kernels

    def fails(network):
        raise RuntimeError("no C compiler\nin the path")

    network = folded()
    caplog.set_level(logging.INFO, "rt_seg_ros")
    monkeypatch.setattr(cgnet_kernels, "accelerate", fails)
    assert not cgnet_kernels.works(network, torch.float32, "cpu")
    assert "RuntimeError: no C compiler" in caplog.text and "in the path" not in caplog.text
    for wrong in (lambda x: 1.1 * network.logits(x), lambda x: network.logits(x) / 0):
        caplog.clear()
        monkeypatch.setattr(cgnet_kernels, "accelerate", lambda _, wrong=wrong: wrong)
        assert not cgnet_kernels.works(network, torch.float32, "cpu") and "differ" in caplog.text
    monkeypatch.setattr(cgnet_kernels, "accelerate", lambda _: network.logits)
    assert cgnet_kernels.works(network, torch.float32, "cpu")


# --- what they compute -----------------------------------------------------------------------------------------------


def test_they_give_what_the_plain_network_gives():
    interprets(__file__)


@pytest.mark.parametrize("capability", [87, 90, 120])
def test_the_kernels_compile_for_gpus_that_are_not_here(capability):
    triton = pytest.importorskip("triton")
    from triton.compiler import ASTSource

    from rt_seg_ros.backends import cgnet_kernels as kernels

    target = gpu_target(capability)

    def compiles(kernel, dtype: str, options: dict[str, object], maps: str, numbers: str, **how: int) -> None:
        signature = dict.fromkeys(kernel.arg_names, "*fp32") | dict.fromkeys(options, "constexpr")
        signature |= dict.fromkeys(maps.split(), dtype) | dict.fromkeys(numbers.split(), "i32")
        aligned = {
            (at,): [["tt.divisibility", 16]] for at, name in enumerate(kernel.arg_names) if signature[name][0] == "*"
        }
        source = ASTSource(kernel, signature, constexprs=options, attrs=aligned)
        done = triton.compile(source, target=target, options=how)
        assert done.asm["cubin"] and done.metadata.shared <= 99 * 1024  # what a block has on the smallest of them

    for dtype in FLOATS:
        halves = dtype != "*fp32"
        options = {"EACH": 128, "RAW": True, "BLOCK": 128, "CHANNELS": 32}
        maps, numbers = "source taps joint", "height width dilation segments rows"
        compiles(kernels._extract_kernel, dtype, options, maps, numbers, num_warps=8, maxnreg=128)

        maps, numbers = "joint x excite mix reduce out reduced", "pixels parts"
        out, chunk, depth = (128, 128, 64) if halves else (64, 32, 16)
        options = {"JOINT": out, "OUT": out, "REDUCED": out // 2, "HIDDEN": 8, "MIX": False, "PARTS": 8192 // out}
        options |= {"CHUNK": chunk, "DEPTH": depth, "BLOCK": 64}
        compiles(kernels._advance_kernel, dtype, options, maps + " squeeze", numbers, num_warps=8, num_stages=2)
        options |= {"JOINT": 2 * out, "MIX": True, "PARTS": 4096 // out}
        compiles(kernels._advance_kernel, dtype, options, maps, numbers, num_warps=8, num_stages=2)

        options = {"ONE": 64, "TWO": 64, "TAIL": 3, "OUT": 136, "FIRST": True, "SECOND": True, "BLOCK": 64}
        compiles(kernels._join_kernel, dtype, options, "one two tail out", "pixels", num_warps=4)
        options = {"EACH": out, "CLASSES": 11, "WIDTH": 16, "DEPTH": out if halves else depth, "BLOCK": 64}
        compiles(kernels._classify_kernel, dtype, options, "first last weights out", "pixels", num_warps=4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_gpu_gives_what_the_plain_network_gives_also_as_a_graph(dtype):
    from rt_seg_ros.backends.cgnet_kernels import accelerate, works
    from rt_seg_ros.backends.torch_cuda import _numerics
    from rt_seg_ros.zoo import build_network, find_model

    network = build_network(find_model("cgnet")).fuse().to("cuda", dtype, memory_format=torch.channels_last)
    with torch.inference_mode(), _numerics():
        assert works(network, dtype, torch.device("cuda"))
        logits = accelerate(network)
        for size in ((360, 480), (180, 248)):
            x, other = (images((n, 3, *size), dtype, "cuda") for n in (1, 1))
            x = x.contiguous(memory_format=torch.channels_last)
            other = other.flip(3).contiguous(memory_format=torch.channels_last)
            expected = network.logits(x)
            agree(logits(x), expected, dtype)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            given = other.clone(memory_format=torch.preserve_format)
            with torch.cuda.graph(graph):
                captured = logits(given)
            for picture in (x, other, x):
                given.copy_(picture)
                graph.replay()
                agree(captured, network.logits(picture), dtype)


def agree(got: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Compare scores, relative to their spread: either rounds in its own places."""
    assert got.shape == expected.shape and got.dtype == expected.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    difference = (got.float() - expected.float()).square().mean().sqrt() / expected.float().std()
    assert difference.item() <= {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]


# --- in the interpreter ----------------------------------------------------------------------------------------------


def interpret() -> None:
    from rt_seg_ros.backends import cgnet_kernels as kernels

    teach_bfloat16()

    def compare(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, **options) -> None:
        network = folded(dtype, **options)
        x = images(shape, dtype)
        with torch.no_grad():
            expected, got = network.logits(x), kernels.accelerate(network)(x)
        agree(got, expected, dtype)
        if dtype == torch.float32:
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * expected.std().item())

    compare((2, 3, 40, 56))
    compare((1, 3, 13, 22), torch.float16)
    compare((1, 3, 13, 22), torch.bfloat16)
    compare((1, 3, 3, 5))
    # Several rows to a program, pixels in large tiles, and more columns than a tile has.
    kernels._SUMS, kernels._PROGRAMS, kernels._CHANNELS = 512, 1, 128
    compare((1, 3, 37, 51), n=3, surrounding="single")
    compare((1, 3, 9, 530), activation="relu", input_injection=False)
    print("the same")


def teach_bfloat16() -> None:
    """Let the interpreter round to bfloat16, not cut off, and multiply its matrices, which it takes for integers."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert, multiply = interpreter._convert_float, interpreter.InterpreterBuilder.create_dot

    def convert_float(data, source, target, *others):
        if source == tl.float32 and target == tl.bfloat16:
            return torch.from_numpy(np.array(data, np.float32)).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return convert(data, source, target, *others)

    def create_dot(self, a, b, *others):
        if a.dtype.scalar == tl.bfloat16:
            wide = ((matrix.data.astype(np.uint32) << 16).view(np.float32) for matrix in (a, b))
            a, b = (interpreter.TensorHandle(data, tl.float32) for data in wide)
        return multiply(self, a, b, *others)

    interpreter._convert_float = convert_float
    interpreter.InterpreterBuilder.create_dot = create_dot


if __name__ == "__main__":
    interpret()
