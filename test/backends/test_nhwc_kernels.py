"""Pooling in channels_last by Triton: held against PyTorch, in Triton's interpreter; compiled for GPUs not here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from backend_helpers import gpu_target, interprets


def test_the_kernels_give_what_pytorch_gives():
    interprets(__file__)


@pytest.mark.parametrize("capability", [75, 87, 90, 120])
def test_the_kernels_compile_for_gpus_that_are_not_here(capability):
    triton = pytest.importorskip("triton")
    from triton.compiler import ASTSource

    from rt_seg_ros.backends.nhwc_kernels import _cells_kernel, _window_kernel

    target = gpu_target(capability)
    window = ("height", "width", "channels", "out_height", "out_width", "blocks")
    cells = ("height", "width", "channels", "rows", "columns")
    for dtype in ("*fp32", "*fp16", "*bf16"):
        if dtype == "*bf16" and capability < 80:
            continue
        for kernel, numbers, options in [
            (_window_kernel, window, {"MAXIMUM": True, "BLOCK": 512}),
            (_window_kernel, window, {"MAXIMUM": False, "BLOCK": 512}),
            (_cells_kernel, cells, {"COLUMNS": 32, "CHANNELS": 128}),
        ]:
            signature = {"source": dtype, "target": dtype, **dict.fromkeys(numbers, "i32")}
            signature |= dict.fromkeys(options, "constexpr")
            source = ASTSource(kernel, signature, constexprs=options)
            assert triton.compile(source, target=target).asm["cubin"]


@pytest.mark.gpu
def test_the_kernels_give_on_the_gpu_what_pytorch_gives():
    pytest.importorskip("triton")
    compare("cuda", ((2, 40, 45, 61), (1, 128, 90, 120), (3, 35, 9, 200), (1, 32, 16, 32)))


def compare(device: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    from rt_seg_ros.backends.nhwc_kernels import cell_means, in_layout, map_mean, window_pool

    generator = torch.Generator().manual_seed(4)
    for shape in shapes:
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
            x = torch.randn(shape, generator=generator).to(device, dtype)
            x = x.contiguous(memory_format=torch.channels_last)
            assert in_layout(x)
            full = x.float().contiguous()

            def close(got: torch.Tensor, expected: torch.Tensor) -> None:
                assert got.dtype == dtype and got.shape == expected.shape  # noqa: B023
                assert got.dim() < 4 or in_layout(got)
                torch.testing.assert_close(got.float(), expected, rtol=tolerance, atol=tolerance)  # noqa: B023

            close(window_pool(x, maximum=True), F.max_pool2d(full, 3, 2, 1))
            close(window_pool(x, maximum=False), F.avg_pool2d(full, 3, 2, 1))
            close(map_mean(x), full.mean((2, 3)))
            for grid in ((1, 1), (2, 3), (7, 7), (8, 5)):
                close(cell_means(x, grid), F.adaptive_avg_pool2d(full, grid))
    lost = torch.full((1, 8, 4, 4), float("nan"), device=device).contiguous(memory_format=torch.channels_last)
    assert bool(window_pool(lost, maximum=True).isnan().all())


if __name__ == "__main__":
    compare("cpu", ((2, 19, 9, 12), (1, 40, 7, 7)))
    print("the same")
