"""What changes the weights: the optimiser, and gradients kept within a norm for it."""

from __future__ import annotations

import torch
from torch import nn

from rt_seg_ros.networks.base import SegmentationNetwork
from rt_seg_ros.training.recipe import Recipe


def create_optimiser(recipe: Recipe, network: SegmentationNetwork) -> torch.optim.Optimizer:
    """Return a recipe's optimiser of a network's parameters: rate and decay are by the network's groups.

    ``lr_scale`` of a group is its share of the recipe's rate, for schedules. A backbone that starts from nothing learns
    at the full rate: a lower one is to keep what it learnt before.
    """
    section = recipe.optimiser
    pretrained = recipe.network.backbone_weights is not None or recipe.network.weights is not None
    scale = section.backbone_scale if section.backbone_scale is not None or pretrained else 1.0
    if scale is not None:
        network.backbone_lr_scale = network.backbone_weight_decay_scale = scale
    groups = [
        {
            "params": group["params"],
            "lr": section.lr * group["lr_scale"],
            "lr_scale": group["lr_scale"],
            "weight_decay": section.weight_decay * group["weight_decay_scale"],
        }
        for group in network.parameter_groups(decay_all=section.decay == "all")
        if group["params"]
    ]
    if section.kind == "sgd":
        sgd = torch.optim.SGD(groups, lr=section.lr, momentum=section.momentum, fused=True)
        if section.momentum:
            # The fused kernel leaves it uninitialised where fp16 overflows in the first step, as it usually does.
            for parameter in (p for group in sgd.param_groups for p in group["params"]):
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    kind = torch.optim.Adam if section.kind == "adam" else torch.optim.AdamW
    return kind(groups, lr=section.lr, betas=section.betas, fused=True)


def clip_gradients(optimiser: torch.optim.Optimizer, limit: float, in_step: bool) -> None:
    """Have the optimiser's next step take the gradients scaled down to this norm where theirs is larger.

    :param in_step: leave the scaling to a fused optimiser's step, which divides by ``grad_scale`` as it does for a
        GradScaler; it saves a pass over all gradients. False where a GradScaler sets that itself.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    if in_step:
        norms = torch._foreach_norm([p.grad for p in parameters])
        optimiser.grad_scale = (torch.linalg.vector_norm(torch.stack(norms)) / limit).clamp(min=1.0)  # type: ignore[attr-defined]
    else:
        nn.utils.clip_grad_norm_(parameters, limit)
