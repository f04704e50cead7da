"""What every segmentation network is, whatever its architecture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rt_seg_ros.errors import UserError
from rt_seg_ros.networks.layers import resize
from rt_seg_ros.pickles import check_tensors, read_tensors

if TYPE_CHECKING:
    from typing_extensions import Self


class SegmentationNetwork(nn.Module):
    """A network from normalised RGB to class scores per pixel.

    A subclass sets ``output_stride``, calls this constructor and writes :meth:`maps`; its own constructor takes
    ``num_classes``, and ``aux`` by keyword, also where it has no auxiliary head. Where it has a
    ``backbone`` that takes pre-trained weights, that module has a method ``translate`` from the keys of public
    checkpoints to its own.
    """

    output_stride: int
    #: Learning rate and weight decay of ``backbone``, relative to the rest.
    backbone_lr_scale: float = 1.0
    backbone_weight_decay_scale: float = 1.0

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def maps(self, x: Tensor, auxiliary: bool = False) -> list[Tensor]:
        """Class scores at the network's own resolutions: the main head's, then the auxiliary heads'.

        :param x: (N, 3, H, W) float, normalised RGB
        :param auxiliary: compute the auxiliary heads, where the network was built with them
        """
        raise NotImplementedError

    def logits(self, x: Tensor) -> Tensor:
        """Class scores at the network's own resolution, for deployment.

        :param x: (N, 3, H, W) float, normalised RGB
        :return: (N, num_classes, ceil(H / output_stride), ceil(W / output_stride))
        """
        return self.maps(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Class scores for every pixel, of the main head alone, whatever the mode: :meth:`logits`, resized bilinearly.

        :param x: (N, 3, H, W) float, normalised RGB
        :return: (N, num_classes, H, W)
        """
        return resize(self.logits(x), x.shape[-2:])

    def forward_train(self, x: Tensor) -> list[Tensor]:
        """Class scores for every pixel, of the main head and of each auxiliary head there is, whatever the mode.

        There are auxiliary heads where the network was built with ``aux=True`` and its architecture has any; else the
        list has the main head's scores alone.

        :param x: (N, 3, H, W) float, normalised RGB
        :return: main, auxiliary 1, ... each (N, num_classes, H, W)
        """
        # Losses want float32 in NCHW: a small map costs less to change than a large one.
        maps = [m.to(torch.promote_types(m.dtype, torch.float32)).contiguous() for m in self.maps(x, auxiliary=True)]
        return [resize(scores, x.shape[-2:]) for scores in maps]

    def parameter_groups(self, decay_all: bool = False) -> list[dict[str, Any]]:
        """Parameters in groups for an optimiser: no weight decay on norms, biases and PReLU slopes.

        :param decay_all: decay those as well
        :return: dicts with ``params``, ``weight_decay_scale``, ``lr_scale``, ``name``; the scales multiply
            the rates that a recipe gives. Every parameter is in exactly one group.
        """
        backbone = getattr(self, "backbone", None)
        of_backbone = {id(p) for p in backbone.parameters()} if backbone is not None else set()
        groups: dict[str, dict[str, Any]] = {}
        for parameter in self.parameters():
            in_backbone = id(parameter) in of_backbone
            decays = decay_all or parameter.ndim > 1  # norms, biases, slopes and scales are vectors
            key = ("backbone_" if in_backbone else "") + ("decay" if decays else "no_decay")
            scale = self.backbone_weight_decay_scale if in_backbone else 1.0
            group = groups.setdefault(
                key,
                {
                    "params": [],
                    "weight_decay_scale": scale if decays else 0.0,
                    "lr_scale": self.backbone_lr_scale if in_backbone else 1.0,
                    "name": key,
                },
            )
            group["params"].append(parameter)
        return list(groups.values())

    def fuse(self) -> Self:
        """Fold batch norms into the convolutions before them, in place, for inference.

        The network is put in eval mode and gives the same scores as before, faster; it can no longer be
        trained, and its state dict no longer fits the unfolded network.
        """
        self.eval()
        with torch.no_grad():
            for module in list(self.modules()):
                fold = getattr(module, "fold_norms", None)
                if fold is not None:
                    fold()
        return self

    def load_backbone(self, path: str | Path, allow_pickle: bool = False) -> None:
        """Load pre-trained weights into the backbone.

        :param path: a ``.safetensors`` file
        :param allow_pickle: or a PyTorch checkpoint, of which only tensors are read
        :raises UserError: no backbone to load, unreadable or unwanted file, or tensors that do not fit (by name)
        """
        backbone = getattr(self, "backbone", None)
        if backbone is None or not hasattr(backbone, "translate"):
            raise UserError(f"{type(self).__name__} has no backbone that takes pre-trained weights (asked: {path})")
        state = backbone.translate(read_tensors(Path(path), "backbone weights", allow_pickle))
        expected = backbone.state_dict()
        check_tensors(state, expected, type(backbone).__name__, f"backbone weights {path}")
        backbone.load_state_dict({**expected, **state})
