"""The size at which a network sees a frame.

Its sides are whole steps of 8 pixels. A network halves its maps three times and more; where a side does not divide, the
last value of a map stands for pixels beyond the image, but resizing the scores to the image's size takes it for one
within: labels shift, by up to 7 pixels at the far edges. On frames of 353x473, cut from CamVid, that cost every network
5 to 10 points of mIoU; resized to 352x472 they lose nothing.
"""

from __future__ import annotations

import math

from rt_seg_ros.errors import UserError

Size = tuple[int, int]  # (height, width)

STEP = 8
MIN_SIDE = 64  # networks divide by up to 32; below this a side leaves them nothing to work on
MAX_SIDE = 8192
_NEAR = 0.8  # how much smaller the size as learnt may be than a whole fraction of the frame


def in_steps(height: float, width: float) -> Size:
    """Return the nearest (height, width) that networks can work at."""
    height, width = (min(max(MIN_SIDE, STEP * int(side / STEP + 0.5)), MAX_SIDE) for side in (height, width))
    return height, width


def working_size(frame: Size, ratio: float = 0.0, learnt: Size | None = None, resized: bool = False) -> Size:
    """Return the (height, width) at which a network sees a frame.

    :param frame: (height, width)
    :param ratio: working size over the frame's; 0: such that the network sees things about as large as it learnt them,
        and none enlarged, but where they were ``resized``
    :param learnt: (height, width) of the frames that it learnt from, where that is known
    :param resized: it learnt from frames of whatever size, brought to ``learnt``
    """
    height, width = frame
    if not ratio and learnt is not None:
        if resized:
            return in_steps(*learnt)
        ratio = _as_learnt(height * width, learnt[0] * learnt[1])
    ratio = ratio or 1.0
    return in_steps(height * ratio, width * ratio)


def _as_learnt(pixels: int, learnt: int) -> float:
    """Return the ratio at which a frame has about as many pixels as those learnt from, and at most 1.

    It is one half, one third and so on, where that is larger by up to a quarter: shrinking to such a size takes a third
    of the time, and averages whole pixels. So 1920x1080 becomes 640x360.
    """
    ratio = min(1.0, math.sqrt(learnt / pixels))
    whole = int(1 / ratio)
    return 1 / whole if whole > 1 and whole * ratio >= _NEAR else ratio


def check_side(name: str, value: int) -> None:
    """Check one side of a size that somebody asks for.

    :raises UserError: naming it, the value and what can be had instead
    """
    if not MIN_SIDE <= value <= MAX_SIDE:
        raise UserError(f"{name} is {value}; use {MIN_SIDE} to {MAX_SIDE} pixels")
    if value % STEP:
        lower = value - value % STEP
        raise UserError(
            f"{name} is {value}; use a multiple of {STEP}, such as {lower} or {lower + STEP}: others shift the labels"
        )


def check_size(name: str, size: Size) -> None:
    """Check a size that somebody asks for.

    :raises UserError: see :func:`check_side`
    """
    for side, value in zip(("height", "width"), size, strict=True):
        check_side(f"{name} is {size[0]}x{size[1]}: its {side}", value)
