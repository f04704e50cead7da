"""CGNet on a GPU, by Triton: a context guided block (arXiv:1811.08201, section 3.1) is two kernels.

As PyTorch runs it, such a block is twenty kernels that each read and write a map to do next to nothing with it. Only
the global context, for which all of a map must be known, keeps a block from being one kernel. So between two of them:

- ``extract``: the two channel-wise convolutions, joined, their PReLU, and sums of what comes out by parts of the map;
- ``advance``: from the sums the gate, which each program works out for itself; the gate on the joint feature, the
  residual, and the next block's 1x1 convolution with its PReLU.

In a down-sampling block ``advance`` has the 1x1 convolution that brings the channels back and no residual. The mean
of what that convolution gives is what it gives of the mean, so the gate needs no pass of its own there either.
The 3x3 convolutions over all channels are left to cuDNN, without their biases; those are added, and PReLU taken, by
what reads the result.

All maps are in channels_last and of the network's dtype: float32, float16 or bfloat16. Sums are in float32, and float32
is never computed in TF32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn import functional as F

from rt_seg_ros.backends.nhwc_kernels import new_maps, window_pool
from rt_seg_ros.log import get_logger
from rt_seg_ros.networks.cgnet import CGNet, ContextGuidedBlock
from rt_seg_ros.networks.layers import ConvNormAct, NormAct

_log = get_logger(__name__)

#: Height and width of the batches of two that are tried: tiles are small for the one, and large for the other.
_TRIALS = ((64, 96), (512, 1024))
#: Largest difference of scores from the plain network's, root mean square, relative to their spread. Either rounds in
#: its own places, through some sixty layers.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

#: Programs that a kernel should have at least, if smaller tiles can give them: about as many as a large GPU has cores.
_PROGRAMS = 80
#: Sums of a map's parts, parts times channels: every program that needs a gate reads them all.
_SUMS = 8192
#: Values in a tile, at most.
_TILE = 8192
#: Channels of a tile of ``extract``: with few, there are more programs for as many sums.
_CHANNELS = 32
#: Multiple of channels in what is joined for cuDNN: otherwise it copies the map first.
_ALIGNED = 8
_MOST_CLASSES = 256


@triton.jit
def _act(value, slope):  # type: ignore[no-untyped-def]
    return tl.where(value > 0, value, value * slope)


@triton.jit(do_not_specialize=["height", "width", "dilation", "segments", "rows"])
def _extract_kernel(  # type: ignore[no-untyped-def]
    source,
    source_bias,
    source_slope,
    taps,
    bias,
    slope,
    joint,
    sums,
    height,
    width,
    dilation,
    segments,
    rows,
    EACH: tl.constexpr,  # noqa: N803
    RAW: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
):
    # One program: CHANNELS of the joint map, in BLOCK columns, in some successive rows.
    part = tl.program_id(0)
    image = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    surrounds = tl.program_id(1) * CHANNELS // EACH
    step = tl.where(surrounds == 0, 1, dilation)
    own = channel - surrounds * EACH
    x = (part % segments) * BLOCK + tl.arange(0, BLOCK)
    top = (part // segments) * rows
    inside = (x < width)[:, None]
    source += image * height * width * EACH
    joint += image * height * width * (2 * EACH)
    joint_bias = tl.load(bias + channel)[None, :]
    joint_slope = tl.load(slope + channel)[None, :]
    if RAW:
        own_bias = tl.load(source_bias + own)[None, :]
        own_slope = tl.load(source_slope + own)[None, :]
    total = tl.zeros((BLOCK, CHANNELS), tl.float32)
    for y in range(top, tl.minimum(top + rows, height)):
        value = tl.zeros((BLOCK, CHANNELS), tl.float32) + joint_bias
        for tap in tl.static_range(9):
            row = y + (tap // 3 - 1) * step
            column = x + (tap % 3 - 1) * step
            there = ((row >= 0) & (row < height) & (column >= 0) & (column < width))[:, None]
            at = (row * width + column)[:, None] * EACH + own[None, :]
            near = tl.load(source + at, mask=there, other=0.0).to(tl.float32)
            if RAW:
                near = tl.where(there, _act(near + own_bias, own_slope), 0.0)
            value += near * tl.load(taps + tap * (2 * EACH) + channel).to(tl.float32)[None, :]
        value = _act(value, joint_slope)
        to = (y * width + x)[:, None] * (2 * EACH) + channel[None, :]
        tl.store(joint + to, value.to(joint.dtype.element_ty), mask=inside)
        total += tl.where(inside, value, 0.0)
    tl.store(sums + (image * tl.num_programs(0) + part) * (2 * EACH) + channel, tl.sum(total, 0))


@triton.jit(do_not_specialize=["pixels", "parts"])
def _advance_kernel(  # type: ignore[no-untyped-def]
    joint,
    x,
    sums,
    squeeze,
    squeeze_bias,
    excite,
    excite_bias,
    mix,
    reduce,
    reduce_bias,
    reduce_slope,
    out,
    reduced,
    pixels,
    parts,
    JOINT: tl.constexpr,  # noqa: N803
    OUT: tl.constexpr,  # noqa: N803
    REDUCED: tl.constexpr,  # noqa: N803
    HIDDEN: tl.constexpr,  # noqa: N803
    MIX: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    PARTS: tl.constexpr,  # noqa: N803
):
    # One program: all channels of BLOCK pixels, CHUNK at a time.
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (pixel < pixels)[:, None]
    joint += image * pixels * JOINT
    x += image * pixels * OUT
    out += image * pixels * OUT
    all_of = tl.arange(0, JOINT)
    after = tl.arange(0, REDUCED if REDUCED else 1)
    if REDUCED:
        ahead = tl.zeros((BLOCK, REDUCED), tl.float32) + tl.load(reduce_bias + after)[None, :]
    for chunk in tl.static_range(OUT // CHUNK):
        channel = chunk * CHUNK + tl.arange(0, CHUNK)
        at = pixel[:, None] * OUT + channel[None, :]
        if MIX:
            value = tl.zeros((BLOCK, CHUNK), tl.float32)
            for begin in range(0, JOINT, DEPTH):
                deep = begin + tl.arange(0, DEPTH)
                of_joint = tl.load(joint + pixel[:, None] * JOINT + deep[None, :], mask=inside, other=0.0)
                of_mix = tl.load(mix + deep[:, None] * OUT + channel[None, :])
                value = tl.dot(of_joint, of_mix, value, input_precision="ieee")
        else:
            value = tl.load(joint + at, mask=inside, other=0.0).to(tl.float32)
            residual = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if REDUCED:
            of_reduce = tl.load(reduce + channel[:, None] * REDUCED + after[None, :])
        if chunk == 0:  # not before the loads above are under way
            part = tl.arange(0, PARTS)
            of_part = sums + (image * parts + part)[:, None] * JOINT + all_of[None, :]
            mean = tl.sum(tl.load(of_part, mask=(part < parts)[:, None], other=0.0), 0) / pixels
        # One unit after another: a number of each, in no need of a layout, costs no way through shared memory.
        score = tl.load(excite_bias + channel)
        for unit in tl.static_range(HIDDEN):
            of_squeeze = tl.load(squeeze + unit * JOINT + all_of).to(tl.float32)
            hidden = tl.maximum(tl.sum(of_squeeze * mean, 0) + tl.load(squeeze_bias + unit), 0.0)
            score += tl.load(excite + unit * OUT + channel).to(tl.float32) * hidden
        value = value * (1.0 / (1.0 + tl.exp(-score)))[None, :]
        if not MIX:
            value += residual
        rounded = value.to(out.dtype.element_ty)
        tl.store(out + at, rounded, mask=inside)
        if REDUCED:
            ahead = tl.dot(rounded, of_reduce, ahead, input_precision="ieee")
    if REDUCED:
        ahead = _act(ahead, tl.load(reduce_slope + after)[None, :])
        to = reduced + image * pixels * REDUCED + pixel[:, None] * REDUCED + after[None, :]
        tl.store(to, ahead.to(reduced.dtype.element_ty), mask=inside)


@triton.jit
def _join_part(  # type: ignore[no-untyped-def]
    source, out, first_bias, first_slope, scale, bias, slope, pixel, inside,
    COUNT: tl.constexpr, WIDTH: tl.constexpr, BEGIN: tl.constexpr, OUT: tl.constexpr,  # noqa: N803
    FIRST: tl.constexpr, SECOND: tl.constexpr,  # noqa: N803
):  # fmt: skip
    # COUNT channels of a source, and zeros up to WIDTH, from channel BEGIN on of what has OUT.
    channel = tl.arange(0, WIDTH)
    if COUNT == WIDTH:
        value = tl.load(source + pixel[:, None] * COUNT + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    else:
        there = inside & (channel < COUNT)[None, :]
        value = tl.load(source + pixel[:, None] * COUNT + channel[None, :], mask=there, other=0.0).to(tl.float32)
    if FIRST:
        value = _act(value + tl.load(first_bias + channel)[None, :], tl.load(first_slope + channel)[None, :])
    if SECOND:
        value = value * tl.load(scale + BEGIN + channel)[None, :] + tl.load(bias + BEGIN + channel)[None, :]
        value = _act(value, tl.load(slope + BEGIN + channel)[None, :])
    to = out + pixel[:, None] * OUT + BEGIN + channel[None, :]
    tl.store(to, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["pixels"])
def _join_kernel(  # type: ignore[no-untyped-def]
    one,
    two,
    tail,
    out,
    one_bias,
    one_slope,
    scale,
    bias,
    slope,
    pixels,
    ONE: tl.constexpr,  # noqa: N803
    TWO: tl.constexpr,  # noqa: N803
    TAIL: tl.constexpr,  # noqa: N803
    OUT: tl.constexpr,  # noqa: N803
    FIRST: tl.constexpr,  # noqa: N803
    SECOND: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    pixel = tl.arange(0, BLOCK)
    inside = (pixel < pixels - begin)[:, None]
    one += begin * ONE
    two += begin * TWO
    tail += begin * TAIL
    out += begin * OUT
    _join_part(one, out, one_bias, one_slope, scale, bias, slope, pixel, inside, ONE, ONE, 0, OUT, FIRST, SECOND)
    if TWO:
        _join_part(two, out, one_bias, one_slope, scale, bias, slope, pixel, inside, TWO, TWO, ONE, OUT, False, SECOND)
    if TAIL:
        _join_part(
            tail, out, one_bias, one_slope, scale, bias, slope, pixel, inside,
            TAIL, OUT - ONE - TWO, ONE + TWO, OUT, False, SECOND,
        )  # fmt: skip


@triton.jit(do_not_specialize=["pixels"])
def _classify_kernel(  # type: ignore[no-untyped-def]
    first,
    last,
    scale,
    bias,
    slope,
    weights,
    out,
    pixels,
    EACH: tl.constexpr,  # noqa: N803
    CLASSES: tl.constexpr,  # noqa: N803
    WIDTH: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    pixel = tl.arange(0, BLOCK)
    inside = (pixel < pixels - begin)[:, None]
    label = tl.arange(0, WIDTH)
    scores = tl.zeros((BLOCK, WIDTH), tl.float32)
    for half in tl.static_range(2):
        source = (first if half == 0 else last) + begin * EACH
        for chunk in tl.static_range(EACH // DEPTH):
            own = chunk * DEPTH + tl.arange(0, DEPTH)
            channel = half * EACH + own
            value = tl.load(source + pixel[:, None] * EACH + own[None, :], mask=inside, other=0.0).to(tl.float32)
            value = value * tl.load(scale + channel)[None, :] + tl.load(bias + channel)[None, :]
            value = _act(value, tl.load(slope + channel)[None, :]).to(weights.dtype.element_ty)
            weight = tl.load(weights + channel[:, None] * WIDTH + label[None, :])
            scores = tl.dot(value, weight, scores, input_precision="ieee")
    to = out + begin * CLASSES + pixel[:, None] * CLASSES + label[None, :]
    tl.store(to, scores.to(out.dtype.element_ty), mask=inside & (label < CLASSES)[None, :])


# --- what the kernels read ------------------------------------------------------------------------------------------


@dataclass
class _Affine:
    """Of each channel a scale, a bias and the slope below zero, all float32; no scale: a convolution's bias."""

    scale: Tensor | None
    bias: Tensor
    slope: Tensor


@dataclass
class _Reduce:
    """A block's first convolution. ``weight`` is that of ``F.conv2d`` where it is cuDNN's, else (in, out)."""

    weight: Tensor
    after: _Affine


@dataclass
class _Block:
    """A context guided block. ``each``: channels of either extractor; ``mix``: (2 each, out), if it down-samples.

    ``taps`` is (9, 2 each); ``squeeze`` (hidden, 2 each) is that of the joint feature's mean, in float32 if ``mix`` is
    multiplied into it; ``excite`` (hidden, out) has inputs first.
    """

    reduce: _Reduce
    each: int
    out: int
    dilation: int
    taps: Tensor
    joint: _Affine
    mix: Tensor | None
    squeeze: Tensor
    squeeze_bias: Tensor
    excite: Tensor
    excite_bias: Tensor


def _floats(x: Tensor) -> Tensor:
    return x.detach().float().contiguous()


def _slope(act: nn.Module | None, channels: int, like: Tensor) -> Tensor:
    if isinstance(act, nn.PReLU):
        return _floats(act.weight.expand(channels))
    return torch.zeros(channels, device=like.device)


def _after(conv: nn.Conv2d, act: nn.Module | None) -> _Affine:
    assert conv.bias is not None
    return _Affine(None, _floats(conv.bias), _slope(act, conv.out_channels, conv.weight))


def _norm(layer: NormAct, width: int) -> _Affine:
    """Return what a norm does per channel, with zeros for channels up to ``width``."""
    norm = layer.norm
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    scale = _floats(norm.weight) * torch.rsqrt(_floats(norm.running_var) + norm.eps)
    bias = _floats(norm.bias) - _floats(norm.running_mean) * scale
    more = (0, width - norm.num_features)
    slope = _slope(layer.act, norm.num_features, norm.weight)
    return _Affine(F.pad(scale, more), F.pad(bias, more), F.pad(slope, more))


def _block(block: ContextGuidedBlock) -> _Block:
    assert block.context is not None and block.local.bias is not None and block.surround.bias is not None
    each = block.local.out_channels
    conv = block.reduce.conv
    if block.mix is None:
        weight = conv.weight.detach().flatten(1).t().contiguous()
    else:
        padding = -conv.in_channels % _ALIGNED
        weight = F.pad(conv.weight.detach(), (0, 0, 0, 0, 0, padding)).contiguous(memory_format=torch.channels_last)
    pair = (block.local, block.surround)
    squeeze = block.context.squeeze.weight.detach().contiguous()
    mix = None if block.mix is None else block.mix.weight.detach().flatten(1)
    return _Block(
        reduce=_Reduce(weight, _after(conv, block.reduce.act)),
        each=each,
        out=block.context.squeeze.in_features,
        dilation=int(block.surround.dilation[0]),
        taps=torch.cat([of.weight.detach().flatten(1).t() for of in pair], 1).contiguous(),
        joint=_Affine(
            None,
            torch.cat([_floats(of.bias) for of in pair if of.bias is not None]),
            _slope(block.joint.act, 2 * each, conv.weight),
        ),
        mix=None if mix is None else mix.t().contiguous(),
        squeeze=squeeze if mix is None else (squeeze.double() @ mix.double()).float(),
        squeeze_bias=_floats(block.context.squeeze.bias),
        excite=block.context.excite.weight.detach().t().contiguous(),
        excite_bias=_floats(block.context.excite.bias),
    )


# --- kernels as functions -------------------------------------------------------------------------------------------


def _block_of(pixels: int, images: int, channels: int) -> int:
    """Return how many pixels make a tile of all channels: 16 at least, as products of matrices want them."""
    block = max(16, min(128, _TILE // channels))
    while block > 16 and images * triton.cdiv(pixels, block) < _PROGRAMS:
        block //= 2
    return block


def _extract(source: Tensor, before: _Affine | None, block: _Block) -> tuple[Tensor, Tensor]:
    """Compute a block's joint feature, and sums of its parts.

    :param source: (N, each, h, w), or the same before its bias and PReLU
    :param before: those bias and PReLU
    :return: (N, 2 each, h, w); sums (N, parts, 2 each), float32, at most ``_SUMS`` of an image unless it is very wide
    """
    n, each, height, width = source.shape
    channels = min(_CHANNELS, each)
    columns = max(16, min(128, triton.next_power_of_2(width)))
    segments = triton.cdiv(width, columns)
    rows = triton.cdiv(height, max(1, _SUMS // (2 * each) // segments))
    parts = triton.cdiv(height, rows) * segments
    joint = new_maps(source, 2 * each)
    sums = torch.empty((n, parts, 2 * each), device=source.device)
    own = before or block.joint  # not read without
    _extract_kernel[(parts, 2 * each // channels, n)](
        source,
        own.bias,
        own.slope,
        block.taps,
        block.joint.bias,
        block.joint.slope,
        joint,
        sums,
        height,
        width,
        block.dilation,
        segments,
        rows,
        EACH=each,
        RAW=before is not None,
        BLOCK=columns,
        CHANNELS=channels,
        num_warps=8 if columns >= 64 else 4,
        maxnreg=128,  # so that two programs of eight warps run on a core
    )
    return joint, sums


def _advance(
    joint: Tensor, x: Tensor | None, sums: Tensor, block: _Block, following: _Reduce | None
) -> tuple[Tensor, Tensor]:
    """Compute a block's result, and what the next block's first convolution makes of it.

    :param joint: (N, 2 each, h, w)
    :param x: residual, (N, out, h, w); none in a block that down-samples
    :param sums: of the joint feature, from :func:`_extract`
    :return: (N, out, h, w); (N, reduced, h, w), or the former again if there is no next block
    """
    n, of_joint, height, width = joint.shape
    pixels = height * width
    reduced_channels = 0 if following is None else following.weight.shape[1]
    tile = _block_of(pixels, n, block.out)
    whole = joint.dtype != torch.float32
    out = new_maps(joint, block.out)
    reduced = out if following is None else new_maps(joint, reduced_channels)
    after = block.joint if following is None else following.after
    _advance_kernel[(triton.cdiv(pixels, tile), n)](
        joint,
        joint if x is None else x,
        sums,
        block.squeeze,
        block.squeeze_bias,
        block.excite,
        block.excite_bias,
        joint if block.mix is None else block.mix,
        joint if following is None else following.weight,
        after.bias,
        after.slope,
        out,
        reduced,
        pixels,
        sums.shape[1],
        JOINT=of_joint,
        OUT=block.out,
        REDUCED=reduced_channels,
        HIDDEN=block.squeeze.shape[0],
        MIX=block.mix is not None,
        CHUNK=block.out if whole else 32,  # ieee float32 has no tensor cores: all of a product's inputs in registers
        DEPTH=64 if whole else 16,
        BLOCK=tile,
        PARTS=max(_SUMS // of_joint, triton.next_power_of_2(sums.shape[1])),
        num_warps=8,  # more threads than channels: Triton then loads a vector of them in whatever layout is wanted
        num_stages=2,
    )
    return out, reduced


def _join(
    parts: list[Tensor], tail: Tensor | None, first: _Affine | None, second: _Affine | None, out: Tensor | None = None
) -> Tensor:
    """Concatenate one or two maps and a narrow one, with biases, scales and PReLUs.

    :param parts: (N, channels, h, w) each, a power of two of channels
    :param tail: (N, up to 8, h, w), filled up with zeros to a multiple of 8
    :param first: bias and slope of the first of the parts alone
    :param second: then, scale, bias and slope of all
    :param out: where to write; none: a new map
    """
    one, two = parts[0], parts[1] if len(parts) > 1 else None
    counts = one.shape[1], 0 if two is None else two.shape[1], 0 if tail is None else tail.shape[1]
    total = counts[0] + counts[1] + (_ALIGNED if counts[2] else 0)
    result = new_maps(one, total) if out is None else out
    of_one, of_all = first or second, second or first
    assert of_one is not None and of_all is not None
    pixels = one.shape[0] * one.shape[2] * one.shape[3]
    block = min(128, 4096 // max(counts))
    _join_kernel[(triton.cdiv(pixels, block),)](
        one,
        one if two is None else two,
        one if tail is None else tail,
        result,
        of_one.bias,
        of_one.slope,
        of_all.bias if of_all.scale is None else of_all.scale,
        of_all.bias,
        of_all.slope,
        pixels,
        ONE=counts[0],
        TWO=counts[1],
        TAIL=counts[2],
        OUT=total,
        FIRST=first is not None,
        SECOND=second is not None,
        BLOCK=block,
        num_warps=4,
    )
    return result


def _classify(first: Tensor, last: Tensor, norm: _Affine, weights: Tensor, classes: int) -> Tensor:
    """Join two maps, with norm and PReLU, and compute the scores of their classes.

    :param first: (N, each, h, w), as ``last``
    :param weights: (2 each, classes, filled up with zeros to a power of two)
    :return: (N, classes, h, w)
    """
    n, each, height, width = first.shape
    pixels = n * height * width
    tile = _block_of(pixels, 1, max(each, weights.shape[1]))
    out = new_maps(first, classes)
    _classify_kernel[(triton.cdiv(pixels, tile),)](
        first,
        last,
        norm.scale,
        norm.bias,
        norm.slope,
        weights,
        out,
        pixels,
        EACH=each,
        CLASSES=classes,
        WIDTH=weights.shape[1],
        DEPTH=each if first.dtype != torch.float32 else 16,
        BLOCK=tile,
        num_warps=4,
    )
    return out


# --- the network ----------------------------------------------------------------------------------------------------


class _Stem:
    """Three convolutions; the last one's bias and PReLU are left to what reads it."""

    def __init__(self, layers: nn.Sequential) -> None:
        self._layers: list[tuple[Tensor, tuple[int, ...], _Affine]] = []
        for layer in layers:
            assert isinstance(layer, ConvNormAct)
            weight = layer.conv.weight.detach().contiguous(memory_format=torch.channels_last)
            self._layers.append((weight, layer.conv.stride, _after(layer.conv, layer.act)))
        self.after = self._layers[-1][2]

    def __call__(self, x: Tensor) -> Tensor:
        for index, (weight, stride, _) in enumerate(self._layers):
            if index:
                x = _join([x], None, self._layers[index - 1][2], None, out=x)
            x = _conv(x, weight, stride)
        return x


def _conv(x: Tensor, weight: Tensor, stride: tuple[int, ...]) -> Tensor:
    return _channels_last(F.conv2d(x, weight, None, stride, padding=1))


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class _Stage:
    """A down-sampling block and the others (section 3.2)."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self._blocks: list[_Block] = []
        for block in blocks:
            assert isinstance(block, ContextGuidedBlock)
            self._blocks.append(_block(block))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, in, H, W) -> what the first and the last block give, (N, channels, ceil(H / 2), ceil(W / 2)) each."""
        down = self._blocks[0]
        reduced = _conv(x, down.reduce.weight, (2, 2))
        joint, sums = _extract(reduced, down.reduce.after, down)
        first, reduced = _advance(joint, None, sums, down, self._blocks[1].reduce)
        last = first
        for block, following in zip(self._blocks[1:], [*self._blocks[2:], None], strict=True):
            joint, sums = _extract(reduced, None, block)
            last, reduced = _advance(joint, last, sums, block, None if following is None else following.reduce)
        return first, last


class _Accelerated:
    """The logits of a network for which :func:`fits` holds, with weights as the kernels want them."""

    def __init__(self, network: CGNet) -> None:
        self._injects = network.shrink is not None
        more = _ALIGNED if self._injects else 0
        self._stem, self._stage2, self._stage3 = _Stem(network.stem), _Stage(network.stage2), _Stage(network.stage3)
        self._stage2_in = _norm(network.stage2_in, 32 + more)
        self._stage3_in = _norm(network.stage3_in, 128 + more)
        self._head_in = _norm(network.head_in, 256)
        self._classes = network.num_classes
        width = max(16, triton.next_power_of_2(self._classes))
        weights = network.classifier.weight.detach().flatten(1).t()
        self._weights = F.pad(weights, (0, width - self._classes)).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes, ceil(H / 8), ceil(W / 8)), in channels_last."""
        x = _channels_last(x)
        half = window_pool(x, maximum=False) if self._injects else None
        quarter = window_pool(half, maximum=False) if half is not None else None
        first, last = self._stage2(_join([self._stem(x)], half, self._stem.after, self._stage2_in))
        first, last = self._stage3(_join([last, first], quarter, None, self._stage3_in))
        return _classify(first, last, self._head_in, self._weights, self._classes)


def fits(network: nn.Module) -> TypeGuard[CGNet]:
    """Tell whether the kernels are for a network: CGNet with norms folded, and with the paper's blocks.

    Not those variants of its tables 3, 7 and 8 that proved worse: without a global context, with another residual or
    none, with a 1x1 convolution after each channel-wise one.
    """
    if not isinstance(network, CGNet) or network.training or network.num_classes > _MOST_CLASSES:
        return False
    if network.classifier.bias is not None or network.classifier.weight.dtype not in _TOLERANCE:
        return False
    if any(not isinstance(layer, ConvNormAct) or layer.norm is not None for layer in network.stem):
        return False
    return all(
        isinstance(block, ContextGuidedBlock)
        and block.reduce.norm is None
        and block.joint.norm is None
        and block.context is not None
        and block.local_mix is None
        and (block.mix is not None) == (index == 0)
        and block.residual == ("global" if index else "none")
        for stage in (network.stage2, network.stage3)
        for index, block in enumerate(stage)
    )


def accelerate(network: CGNet) -> Callable[[Tensor], Tensor]:
    """Return what computes ``network.logits`` by the kernels, or that itself where they do not fit.

    Weights are copied: what becomes of the network afterwards does not matter. May be captured as a CUDA graph.

    :param network: with norms folded, on its device, in its dtype and channels_last
    :return: (N, 3, H, W) of that dtype -> (N, classes, ceil(H / 8), ceil(W / 8)) in channels_last
    """
    if not fits(network):
        return network.logits
    with torch.no_grad():
        return _Accelerated(network)


def works(network: nn.Module, dtype: torch.dtype, device: torch.device | str) -> bool:
    """Compile the kernels for a network and compare with the plain way; say in the log where they do not work.

    :param network: as for :func:`accelerate`; False, and nothing said, where they do not fit
    """
    if not fits(network):
        return False
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    try:
        with torch.no_grad():
            logits = accelerate(network)
            for size in _TRIALS if torch.device(device).type == "cuda" else _TRIALS[:1]:
                x = torch.randn((2, 3, *size), generator=generator).to(device, dtype)
                x = x.contiguous(memory_format=torch.channels_last)
                expected, got = network.logits(x).float(), logits(x).float()
                difference = (got - expected).square().mean().sqrt() / expected.std()
                worst = max(worst, difference.item()) if difference.isfinite().item() else float("inf")
    except Exception as error:  # its compiler needs a C compiler and headers, and raises what it likes
        _log.info("CGNet without its kernels: %s: %s", type(error).__name__, str(error).split("\n")[0])
        return False
    if worst > _TOLERANCE[dtype]:
        _log.warning("CGNet without its kernels: their scores differ by %.2g on this GPU", worst)
        return False
    return True
