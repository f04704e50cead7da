"""The naive node: what is usually written around a network, and what this package is compared with.

Every step is the obvious one and does its job properly: PyTorch in eager mode without gradients, normalisation in
numpy, logits interpolated to the image's size and arg max in PyTorch, colours by indexing a palette, blending in
numpy, JPEG by OpenCV. Nothing is slowed down on purpose, and nothing is done twice.
"""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.zoo import ModelCard, build_network

Image = NDArray[np.uint8]


def naive_device(device: str) -> str:
    """Return the device that ``auto`` is to a naive node: the GPU, where PyTorch has one; any other as it is."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class NaiveNode:
    """A model as a node usually runs it.

    :param ratio: size at which the network works over the image's
    :param device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``
    :param threads: CPU threads; 0: PyTorch's own choice
    """

    def __init__(self, card: ModelCard, ratio: float = 1.0, device: str = "auto", threads: int = 0) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.device = device = naive_device(device)
        torch.backends.cudnn.allow_tf32 = False  # fp32 is to mean fp32, as in what it is compared with
        self._torch = torch
        self._network = build_network(card).eval().to(device)
        self._card, self._ratio = card, ratio
        self._mean = np.array(card.mean, np.float32)
        self._std = np.array(card.std, np.float32)
        self._palette = np.ascontiguousarray(card.load_label_space().palette[:, ::-1])  # BGR
        self.network_ms = 0.0

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """Size at which the network sees an image of this size: the same as in what it is compared with."""
        return self._card.working_size((height, width), self._ratio)

    def decode(self, jpeg: bytes) -> Image:
        """Decode a JPEG to BGR."""
        return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)  # type: ignore[return-value]

    def prepare(self, image: Image) -> NDArray[np.float32]:
        """Normalise a BGR image for the network: float32 (1, 3, h, w)."""
        height, width = self.working_size(*image.shape[:2])
        if (height, width) != image.shape[:2]:
            image = cv2.resize(image, (width, height))  # type: ignore[assignment]
        rgb = image[:, :, ::-1].astype(np.float32)
        normalised = (rgb - self._mean) / self._std
        return np.ascontiguousarray(normalised.transpose(2, 0, 1)[None], dtype=np.float32)

    def infer(self, x: NDArray[np.float32]) -> Any:
        """Run the network alone; ``network_ms`` tells how long it took. On a GPU its result stays there."""
        torch = self._torch
        begin = time.perf_counter()
        with torch.no_grad():
            logits = self._network.logits(torch.from_numpy(x).to(self.device))
            if self.device != "cpu":
                torch.cuda.synchronize(self.device)
        self.network_ms = (time.perf_counter() - begin) * 1e3
        return logits

    def arg_max(self, logits: Any, size: tuple[int, int]) -> Image:
        """Turn logits, a tensor (1, classes, h, w), into labels of a size: uint8 (H, W)."""
        torch = self._torch
        with torch.no_grad():
            full = torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            labels: Image = full.argmax(dim=1)[0].cpu().numpy().astype(np.uint8)
        return labels

    def labels(self, image: Image) -> Image:
        """Segment a BGR image: uint8 (H, W)."""
        height, width = image.shape[:2]
        return self.arg_max(self.infer(self.prepare(image)), (height, width))

    def mask(self, labels: Image, class_id: int) -> Image:
        """Mask of one class, 255 where it is."""
        return np.where(labels == class_id, 255, 0).astype(np.uint8)

    def colours(self, labels: Image) -> Image:
        """Colour labels: BGR."""
        return self._palette[labels]

    def overlay(self, image: Image, labels: Image) -> Image:
        """Blend an image with its labels' colours."""
        return (0.5 * image + 0.5 * self.colours(labels)).astype(np.uint8)
