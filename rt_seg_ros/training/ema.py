"""The moving average of a network's weights, which is what is validated and shipped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of parameters and running statistics, over steps.

    Early on the decay is lower, (1 + n) / (10 + n) after n steps, so that the random start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.state: dict[str, Tensor] = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, steps: int = 1) -> None:
        """Move towards the network's present weights as far as so many steps with them would."""
        self.steps += steps
        share = 1.0 - min(self.decay, (1 + self.steps) / (10 + self.steps)) ** steps
        averaged, present = [], []
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                averaged.append(self.state[key])
                present.append(value)
            else:
                self.state[key].copy_(value)
        torch._foreach_lerp_(averaged, present, share)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return what a checkpoint keeps."""
        return {**self.state, "__updates__": self.steps}

    def load_state_dict(self, saved: Mapping[str, Tensor | int]) -> None:
        """Continue from what a checkpoint kept."""
        for key, value in self.state.items():
            value.copy_(torch.as_tensor(saved[key]))
        self.steps = int(saved["__updates__"])
