"""Logits to labels and confidence in one pass over the output, as a Triton kernel.

The plain way (:func:`rt_seg_ros.backends.torch_ops.write_labels`) writes all classes at full size and reads them again,
up to three times; here each output pixel interpolates its classes in registers, and only uint8 is written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rt_seg_ros.backends.torch_ops import write_labels
from rt_seg_ros.log import get_logger
from rt_seg_ros.working_size import Size

_log = get_logger(__name__)

_BLOCK = 128  # output pixels of one row to a program


@triton.jit(
    do_not_specialize=[
        "height", "width", "blocks", "source_height", "source_width", "stride_n", "stride_c", "stride_y", "stride_x",
    ]
)  # fmt: skip
def _labels_kernel(  # type: ignore[no-untyped-def]
    logits,
    labels,
    confidence,
    height,
    width,
    blocks,
    source_height,
    source_width,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    scale_y,
    scale_x,
    CLASSES: tl.constexpr,  # noqa: N803
    CONFIDENCE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    x = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    y = tl.program_id(0) // blocks  # in a dimension of its own, CUDA would allow 65535
    image = tl.program_id(1)
    inside = x < width

    # Source coordinates as PyTorch has them with align_corners=False.
    source_y = tl.maximum((y + 0.5) * scale_y - 0.5, 0.0)
    top = tl.minimum(source_y.to(tl.int32), source_height - 1)
    bottom = tl.minimum(top + 1, source_height - 1)
    down = source_y - top
    up = 1.0 - down
    source_x = tl.maximum((x + 0.5) * scale_x - 0.5, 0.0)
    left = tl.minimum(source_x.to(tl.int32), source_width - 1)
    right = tl.minimum(left + 1, source_width - 1)
    to_right = source_x - left
    to_left = 1.0 - to_right

    upper = logits + image.to(tl.int64) * stride_n + top * stride_y
    lower = logits + image.to(tl.int64) * stride_n + bottom * stride_y
    left_at = left * stride_x
    right_at = right * stride_x

    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    label = tl.zeros((BLOCK,), tl.int32)
    total = tl.zeros((BLOCK,), tl.float32)
    for c in range(CLASSES):
        at = c * stride_c
        a = tl.load(upper + at + left_at, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(upper + at + right_at, mask=inside, other=0.0).to(tl.float32)
        d = tl.load(lower + at + left_at, mask=inside, other=0.0).to(tl.float32)
        e = tl.load(lower + at + right_at, mask=inside, other=0.0).to(tl.float32)
        value = up * (to_left * a + to_right * b) + down * (to_left * d + to_right * e)
        ahead = value > best  # the first of equals stays
        if CONFIDENCE:
            # The sum of exponents so far, relative to the best so far.
            highest = tl.maximum(value, best)
            total = total * tl.exp(best - highest) + tl.exp(value - highest)
        label = tl.where(ahead, c, label)
        best = tl.where(ahead, value, best)

    to = (image.to(tl.int64) * height + y) * width + x
    tl.store(labels + to, label.to(tl.uint8), mask=inside)
    if CONFIDENCE:
        tl.store(confidence + to, (255.0 / total + 0.5).to(tl.uint8), mask=inside)


def fused_write_labels(logits: Tensor, size: Size, labels: Tensor, confidence: Tensor | None) -> None:
    """Do what :func:`rt_seg_ros.backends.torch_ops.write_labels` does, in one kernel.

    ``labels`` and ``confidence`` must be contiguous; ``logits`` may have any strides and any floating type.
    """
    count, classes, source_height, source_width = logits.shape
    blocks = triton.cdiv(size[1], _BLOCK)
    _labels_kernel[(blocks * size[0], count)](
        logits,
        labels,
        labels if confidence is None else confidence,
        size[0],
        size[1],
        blocks,
        source_height,
        source_width,
        *logits.stride(),
        source_height / size[0],
        source_width / size[1],
        CLASSES=classes,
        CONFIDENCE=confidence is not None,
        BLOCK=_BLOCK,
    )


def works(classes: int, dtype: torch.dtype, device: str) -> bool:
    """Compile the kernel for a network and compare it with the plain way; say in the log where it does not work."""
    try:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(2, classes, 6, 38, generator=generator).to(device, dtype)
        logits = logits.to(memory_format=torch.channels_last)
        size = (21, 150)
        plain, certain, fused, fused_certain, bare = (
            torch.empty((2, *size), dtype=torch.uint8, device=device) for _ in range(5)
        )
        write_labels(logits, size, plain, certain)
        fused_write_labels(logits, size, fused, fused_certain)
        fused_write_labels(logits, size, bare, None)
        same = bool((plain == fused).float().mean() > 0.999) and torch.equal(fused, bare)
        off = int((certain.int() - fused_certain.int()).abs().max())
    except Exception as error:  # its compiler needs a C compiler and headers, and raises what it likes
        _log.info("labels without the fused kernel: %s: %s", type(error).__name__, str(error).split("\n")[0])
        return False
    if not same or off > 1:
        _log.warning("labels without the fused kernel: it does not give what the plain way gives on this GPU")
        return False
    return True
