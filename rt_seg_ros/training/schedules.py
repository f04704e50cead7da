"""Learning rate as a function of how far a run is: pure, so that a continued run needs nothing remembered."""

from __future__ import annotations

import math


def poly(progress: float, power: float = 0.9, final: float = 0.0) -> float:
    """Return the factor that falls from 1 to ``final`` as (1 - progress)^power does, 0 to 1 (DeepLab, section 4)."""
    return final + (1.0 - final) * (1.0 - _clipped(progress)) ** power


def cosine(progress: float, final: float = 0.0) -> float:
    """Return the factor that falls from 1 to ``final`` along half a cosine (SGDR, equation 5, no restarts)."""
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * _clipped(progress)))


def warm_up(step: int, steps: int, start: float = 0.0) -> float:
    """Return the factor that rises in a line from ``start`` at step 0 to 1 at ``steps``; 1 from there on."""
    if step >= steps:
        return 1.0
    return start + (1.0 - start) * step / steps


def rate_factor(
    kind: str,
    step: int,
    progress: float,
    *,
    power: float = 0.9,
    final: float = 0.0,
    warm_up_steps: int = 0,
    warm_up_start: float = 0.0,
) -> float:
    """Return the factor on the learning rate.

    :param kind: ``poly``, ``cosine`` or ``constant``
    :param step: steps taken so far, from 0
    :param progress: share of the run that is done, 0 to 1
    :raises ValueError: another kind
    """
    if kind == "poly":
        factor = poly(progress, power, final)
    elif kind == "cosine":
        factor = cosine(progress, final)
    elif kind == "constant":
        factor = 1.0
    else:
        raise ValueError(f"schedule kind '{kind}': poly, cosine and constant exist")
    return factor * warm_up(step, warm_up_steps, warm_up_start)


def _clipped(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)
