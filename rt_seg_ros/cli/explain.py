"""``rt-seg explain``: what in an image speaks for a class, stage by stage."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from rt_seg_ros.cli.options import add_weights_options, chosen_weights, size
from rt_seg_ros.cli.progress import progress
from rt_seg_ros.errors import UserError
from rt_seg_ros.files import write_bytes
from rt_seg_ros.resampling import Normaliser
from rt_seg_ros.sources import open_source
from rt_seg_ros.zoo import ModelCard, build_network, find_model

if TYPE_CHECKING:
    from torch import Tensor

    from rt_seg_ros.explain.figure import Row
    from rt_seg_ros.networks import SegmentationNetwork

SUMMARY = "show what in an image speaks for a class, stage by stage (Score-CAM)"
EPILOG = """\
what is drawn
  First the image, with the border of what the network takes for the class. Then, for each layer, where its channels
  carry what speaks for the class: each channel is laid over the image as a mask, and weighs as much as the score that
  the network still gives the class (Score-CAM, Wang et al., 2020). Bright is the most of that map, dark is nothing.

layers
  By default those where the stages of the network's paper end: of CSRNet-heavy the low-, mid- and high-refined maps of
  its figures 10 and 11; of CGNet the CG stages; of Cross-CBAM SE-ASPP and both CCBAM; of FRFNet the decoder, FFM and
  SFM.
  NAME:in is what goes into a layer. Time grows with channels: one run of the network for each, in batches.

examples:
  rt-seg explain photo.jpg --class car
  rt-seg explain photo.jpg --class car --model csrnet_heavy,csrnet_light --out car.png
  rt-seg explain photo.jpg --list-layers --model cgnet
  rt-seg explain photo.jpg --class road --layer stage2.0,stage2.2,head_in
"""

Image = NDArray[np.uint8]

#: Pixels of a batch at which the memory for it stays at some hundreds of megabytes.
_BATCH_PIXELS = 8 * 360 * 480


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file")
    parser.add_argument("--class", dest="class_name", default="", metavar="NAME", help="the class, as in car")
    parser.add_argument("--layer", default="", metavar="NAME,...", help="layers (default: where the stages end)")
    parser.add_argument("--model", default="cgnet", metavar="NAME,...", help="see rt-seg models (default: %(default)s)")
    parser.add_argument("--list-layers", action="store_true", help="only list the layers that have a map to show")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="picture to write (default: IMAGE_CLASS_explained.png)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a picture that is there already")
    parser.add_argument(
        "--size", type=size, metavar="HxW", help="let the networks work at this size (default: as segment does)"
    )
    add_weights_options(parser)
    parser.add_argument(
        "--label-space", default="", metavar="NAME", help="names of the classes (default: the weights')"
    )
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--batch", type=int, default=0, metavar="N", help="channels at once; 0: as many as memory bears well (default)"
    )
    parser.add_argument("--allow-random-weights", action="store_true", help="explain a network without weights: noise")


def run(args: argparse.Namespace) -> int:
    """Draw the figure, or list the layers."""
    models = [name.strip() for name in args.model.split(",") if name.strip()]
    if not models:
        raise UserError("--model is empty: name at least one, see rt-seg models")
    if args.weights and len(models) > 1:
        raise UserError(f"--weights {args.weights} fits one model; --model names {len(models)}")
    if args.batch < 0:
        raise UserError(f"--batch is {args.batch}; use 1 or more, or 0")
    weights = chosen_weights(args, models[0])
    cards = [find_model(name, args.label_space, weights, args.allow_random_weights) for name in models]
    if not args.list_layers:
        if not args.class_name:
            space = cards[0].load_label_space()
            raise UserError(f"--class is missing: {', '.join(space.names)}")
        for card in cards:
            card.load_label_space().id_of(args.class_name)
    out = _out(args)
    image = _image(args, cards[0])

    from rt_seg_ros.backends.torch_backend import check

    device = check(args.device, "fp32")
    networks = [(card, build_network(card).to(device)) for card in cards]
    inputs = [_input(card, image, device) for card in cards]
    if args.list_layers:
        for (card, network), x in zip(networks, inputs, strict=True):
            _list(card, network, x)
        return 0
    layers = _chosen(args.layer, networks, inputs)
    rows = [
        _row(args, card, network, x, image, chosen)
        for (card, network), x, chosen in zip(networks, inputs, layers, strict=True)
    ]
    _write(out, rows)
    print(f"explained: {out}")
    return 0


def _out(args: argparse.Namespace) -> Path:
    """Return where the picture goes, or refuse before any work is done."""
    out: Path = args.out or Path(f"{args.image.stem}_{args.class_name}_explained.png")
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"--out {out}: the name must end in .png, .jpg or .webp")
    if args.list_layers:
        return out
    if out.resolve() == args.image.resolve():
        raise UserError(f"--out {out} would replace the image itself: choose another name")
    if out.exists() and not args.overwrite:
        raise UserError(f"{out} exists: add --overwrite to replace it, or choose another name with --out")
    if not out.resolve().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.resolve().parent}")
    if not os.access(out.resolve().parent, os.W_OK):
        raise UserError(f"--out {out}: the folder {out.resolve().parent} is not writable")
    return out


def _image(args: argparse.Namespace, card: ModelCard) -> Image:
    """Return the image at the size at which the networks work: as the pipeline shows it to the first."""
    from rt_seg_ros.resampling import resize_pixels
    from rt_seg_ros.working_size import MIN_SIDE, check_size

    source = open_source(args.image)
    if source.kind != "image":
        raise UserError(f"{args.image} is a source of kind '{source.kind}'; explain takes one image")
    item = next(iter(source))
    if item.frame is None:
        raise UserError(item.problem)
    image = item.frame.bgr()
    if args.size:
        check_size("--size", args.size)
        return resize_pixels(image, args.size)
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise UserError(
            f"{args.image}: {width}x{height} pixels leave a network nothing to work on; use at least "
            f"{MIN_SIDE} each way (--size HxW)"
        )
    return resize_pixels(image, card.working_size((height, width)))


def _input(card: ModelCard, image: Image, device: str) -> Tensor:
    """Return the image as the network wants it: (1, 3, H, W), normalised RGB."""
    import torch

    from rt_seg_ros.images import Frame

    planes = np.empty((1, 3, *image.shape[:2]), np.float32)
    Normaliser(card.mean, card.std).write(Frame(image), planes[0])
    return torch.from_numpy(planes).to(device)


def _list(card: ModelCard, network: SegmentationNetwork, x: Tensor) -> None:
    from rt_seg_ros.explain.score_cam import INPUT_MARK, layer_shapes
    from rt_seg_ros.explain.stages import default_layers

    shapes = layer_shapes(network, x)
    stages = default_layers(card.network, network)
    width = max(map(len, shapes))
    kinds = {name: type(module).__name__ for name, module in network.named_modules()}
    print(f"{card.name}, an image of {x.shape[-1]}x{x.shape[-2]}: layer, kind, channels x height x width, stage")
    for name, shape in shapes.items():
        stage = stages.get(name) or next((w for n, w in stages.items() if n == name + INPUT_MARK), "")
        mark = f"  <- {stage}{' (its input)' if stage and name not in stages else ''}" if stage else ""
        print(f"  {name:<{width}}  {kinds[name]:<20}  {shape[0]}x{shape[1]}x{shape[2]}{mark}")


def _chosen(
    text: str, networks: list[tuple[ModelCard, SegmentationNetwork]], inputs: list[Tensor]
) -> list[dict[str, str]]:
    """Return for each network the layers to show, with their titles; a name must be one of at least one network's."""
    from rt_seg_ros.explain.score_cam import layer_shapes
    from rt_seg_ros.explain.stages import check_layers, default_layers

    wanted = [name.strip() for name in text.split(",") if name.strip()]
    if not wanted:
        return [default_layers(card.network, network) for card, network in networks]
    chosen: list[dict[str, str]] = []
    known: set[str] = set()
    for (card, network), x in zip(networks, inputs, strict=True):
        shapes = layer_shapes(network, x)
        titles = default_layers(card.network, network)
        own = [name for name in wanted if name.removesuffix(":in") in shapes]
        if not own or len(networks) == 1:
            check_layers(wanted, shapes, card.network)
        known |= set(own)
        chosen.append({name: titles.get(name, name) for name in own})
    nowhere = [name for name in wanted if name not in known]
    if nowhere:
        raise UserError(f"none of the networks has a layer '{nowhere[0]}' with a map to show: see --list-layers")
    return chosen


def _row(
    args: argparse.Namespace,
    card: ModelCard,
    network: SegmentationNetwork,
    x: Tensor,
    image: Image,
    layers: dict[str, str],
) -> Row:
    """Compute one network's maps."""
    from rt_seg_ros.explain.figure import Row, heat, outlined
    from rt_seg_ros.explain.score_cam import region_of, score_cam

    name = args.class_name
    class_id = card.load_label_space().id_of(name)
    region = region_of(network, x, class_id)
    batch = args.batch or max(1, _BATCH_PIXELS // (image.shape[0] * image.shape[1]))
    cams = score_cam(
        network, x, class_id, region.mask, list(layers), batch,
        watch=lambda items, what, total: progress(items, f"{card.name}, {what}", total),
    )  # fmt: skip
    share = region.mask.mean() * 100
    seen = f"{share:.1f} % of the image is {name} to it" if region.found else f"to it {name} is nowhere in the image"
    pictures = [outlined(image, region.mask) if region.found else image]
    titles = [f"{name}, as it sees it" if region.found else "image"]
    for layer, cam in cams:
        pictures.append(heat(image, cam))
        titles.append(layers[layer] if layers[layer] == layer else f"{layers[layer]}: {layer}")
    return Row(f"{card.name}: {seen}", titles, pictures)


def _write(out: Path, rows: list[Row]) -> None:
    from rt_seg_ros.explain.figure import figure

    done, encoded = cv2.imencode(out.suffix, figure(rows))
    if not done:
        raise UserError(f"{out} cannot be written: OpenCV cannot encode it")
    write_bytes(out, encoded.tobytes())
