"""The file formats: from a card to the files' contents, and a way to run them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rt_seg_ros.errors import UserError
from rt_seg_ros.export.quantise import import_nncf, quantise_onnx, quantise_openvino
from rt_seg_ros.export.runners import Runner, import_openvino, preparing, with_onnxruntime, with_openvino
from rt_seg_ros.export.samples import Samples
from rt_seg_ros.graphs.metadata import metadata
from rt_seg_ros.graphs.options import GraphOptions
from rt_seg_ros.zoo import ModelCard


@dataclass(frozen=True)
class Product:
    """What an export makes.

    ``files``: contents by suffix, in the order in which they are put in place; ``runner`` computes labels with them;
    ``baseline`` with the same in fp32, for int8; ``about`` tells of the form in words.
    """

    files: Mapping[str, bytes]
    runner: Runner
    baseline: Runner | None = None
    about: str = ""


@dataclass(frozen=True)
class Format:
    """A file format.

    :param suffix: of the file that is given as ``--out``
    :param make: (card, options, precision, samples) -> product
    :param runtime: the backend here that runs it, and for which int8 is kept
    """

    suffix: str
    make: Callable[[ModelCard, GraphOptions, str, Samples], Product]
    runtime: str


def _onnx(card: ModelCard, options: GraphOptions, precision: str, samples: Samples) -> Product:
    import onnx

    from rt_seg_ros.graphs.build import build_graph

    model = build_graph(card, replace(options, precision="fp16") if precision == "fp16" else options)
    graph = model.SerializeToString()
    baseline = None
    if precision == "int8":
        baseline = Runner(with_onnxruntime(graph), card, options)
        model = onnx.load_from_string(quantise_onnx(graph, samples, preparing(card, options, options.size)))
        onnx.helper.set_model_props(model, metadata(card, options, precision))
        onnx.checker.check_model(model)
        graph = model.SerializeToString()
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    runner = Runner(with_onnxruntime(graph), card, options)
    return Product({".onnx": graph}, runner, baseline, f"ONNX, opset {opset}")


def _openvino(card: ModelCard, options: GraphOptions, precision: str, samples: Samples) -> Product:
    from rt_seg_ros.graphs.build import build_graph

    openvino = import_openvino()
    if precision == "int8":
        import_nncf()  # missed before the work
    graph = build_graph(card, options).SerializeToString()
    core = openvino.Core()
    model = core.read_model(model=graph)
    baseline = None
    if precision == "int8":
        baseline = Runner(with_openvino(model), card, options)
        model = quantise_openvino(model, samples, preparing(card, options, options.size))
    for key, value in metadata(card, options, precision).items():
        model.set_rt_info(value, key.split("."))
    with tempfile.TemporaryDirectory(prefix="rt_seg_ir_") as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=precision == "fp16")
        files = {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".bin", ".xml")}
    written: Any = core.read_model(model=files[".xml"], weights=files[".bin"])
    return Product(files, Runner(with_openvino(written), card, options), baseline, "OpenVINO IR")


#: By the name that ``--format`` takes. TensorRT's engines are made by ``export.engine``.
FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", _onnx, "onnxruntime"),
    "openvino": Format(".xml", _openvino, "openvino"),
}


def format_of(name: str, out: Path | None) -> Format:
    """Return a format by its name, or where there is none by the suffix of the file.

    :raises UserError: unknown, or a suffix of another format
    """
    if not name:
        named = [known for known, entry in FORMATS.items() if out is not None and out.suffix == entry.suffix]
        if not named:
            missing = f"--out {out} names no format by its suffix, and --format" if out is not None else "--format"
            raise UserError(f"{missing} is missing; there are: {', '.join((*FORMATS, 'tensorrt'))}")
        name = named[0]
    if name not in FORMATS:
        raise UserError(f"no format '{name}'; there are: {', '.join((*FORMATS, 'tensorrt'))}")
    if out is not None and out.suffix != FORMATS[name].suffix:
        raise UserError(f"--out {out}: a file of format '{name}' ends in {FORMATS[name].suffix}")
    return FORMATS[name]
