"""``rt-seg models``: what there is to run, what it costs, and how good it is."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.networks import list_networks, network_info
from rt_seg_ros.zoo import DEFAULT_LABEL_SPACE, ModelCard, card_score, list_models, training_parts

SUMMARY = "list the networks, their cost, their weights and scores"
EPILOG = """\
columns:
  model        what to give as --model, or to the node as model:=
  parameters   trainable values, in millions
  MACs         multiply-adds of one frame of 480x360 pixels, in billions
  weights      size of the file that comes with the package; 'none yet': train it (rt-seg train), or give a
               file of your own with --weights
  val          mean intersection over union on validation frames; the protocol is told below the table. '-': the
               weights saw these frames, or began with some that had
  drives       the same on rendered drives that no training used: the least and the most of those measured

examples:
  rt-seg models                      everything
  rt-seg models 'csrnet*'            one family
  rt-seg models --json | jq '.[] | select(.weights) | .model'
"""

#: (height, width) at which multiply-adds are counted.
COUNTED_AT = (360, 480)


@dataclass(frozen=True)
class _Row:
    """A network, with weights or without."""

    model: str
    network: str
    card: ModelCard | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "pattern", nargs="?", default="*", help="models or networks to list, as a shell pattern; all by default"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON, with everything the cards say")
    form.add_argument("--markdown", action="store_true", help="print the weights as the table of models/README.md")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    rows = _rows(args.pattern)
    if not rows:
        known = ", ".join([*list_networks(), *(card.name for card in list_models())])
        raise UserError(f"no model matches '{args.pattern}'; there are: {known}")
    entries = [_describe(row) for row in rows]
    if args.markdown:
        print(_markdown(entries))
    elif args.json:
        print(json.dumps(entries, indent=2, default=str))
    else:
        print(_table(entries))
        for note in _notes(entries):
            print(f"\n{note}")
    return 0


def _rows(pattern: str) -> list[_Row]:
    """Networks in the registry's order, each with its weights; one without weights is listed all the same."""
    cards = list_models()
    rows = []
    for network in list_networks():
        of_network = [card for card in cards if card.network == network]
        # A network's plain name stands for the weights that the package takes by default.
        of_network.sort(key=lambda card: (card.name != f"{card.network}_{DEFAULT_LABEL_SPACE}", card.name))
        named = [_Row(card.name, network, card) for card in of_network] or [_Row(network, network, None)]
        rows += [row for row in named if fnmatchcase(row.model, pattern) or fnmatchcase(network, pattern)]
    return rows


def _describe(row: _Row) -> dict[str, Any]:
    card = row.card
    space = card.label_space if card else DEFAULT_LABEL_SPACE
    num_classes = card.num_classes if card else load_label_space(space).num_classes
    parameters, macs = _cost(row.network, num_classes, json.dumps(dict(card.options) if card else {}))
    info = network_info(row.network)
    entry: dict[str, Any] = {
        "model": row.model,
        "network": row.network,
        "family": info.family,
        "summary": info.summary,
        "paper": info.paper,
        "parameters": parameters,
        "macs": macs,
        "macs_at": list(COUNTED_AT),
        "label_space": space if card else None,
        "num_classes": num_classes,
        "weights": None,
        "weights_bytes": None,
        "score": None,
        "score_on": None,
        "protocol": None,
        "licence": None,
    }
    if card is not None:
        score = card_score(card)
        there = card.weights is not None and card.weights.is_file()
        entry |= {
            "weights": str(card.weights) if there else None,
            "weights_bytes": card.weights.stat().st_size if there and card.weights else None,
            "sha256": card.sha256,
            "input_size": list(card.input_size) if card.input_size else None,
            "frame_size": list(card.frame_size) if card.frame_size else None,
            "resized": card.resized,
            "score": score.miou if score else None,
            "score_on": score.data if score else None,
            "score_on_validation_split": bool(score and score.on_validation_split),
            "score_before_the_last_part": score.of_start if score else None,
            "protocol": (score.protocol if score else card.details.get("protocol")) or None,
            "licence": card.details.get("licence"),
            "scores": dict(card.scores),
            "details": dict(card.details),
        }
    return entry


@lru_cache(maxsize=64)
def _cost(network: str, num_classes: int, options: str) -> tuple[int, int]:
    """Count parameters and multiply-adds of a network with these options (JSON); only shapes are computed."""
    import torch

    from rt_seg_ros.networks import count_macs, count_parameters, create_network

    with torch.device("meta"):
        built = create_network(network, num_classes=num_classes, **json.loads(options))
    return count_parameters(built), count_macs(built, *COUNTED_AT)


def _table(entries: list[dict[str, Any]]) -> str:
    header = ("model", "family", "parameters", "MACs", "label space", "weights", "val", "drives", "licence of the data")
    rows = [
        (
            entry["model"],
            entry["family"],
            f"{entry['parameters'] / 1e6:.2f} M",
            f"{entry['macs'] / 1e9:.2f} G",
            entry["label_space"] or "any",
            _size(entry["weights_bytes"]),
            _on_val(entry),
            _on_drives(entry),
            entry["licence"] or "-",
        )
        for entry in entries
    ]
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    numbers = {2, 3, 5, 6, 7}

    def line(cells: tuple[Any, ...]) -> str:
        padded = (
            str(cell).rjust(width) if i in numbers else str(cell).ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


def _markdown(entries: list[dict[str, Any]]) -> str:
    """Write what there are weights for, as a table and the commands that repeat each training."""
    lines = [
        "| model | recipe | trained on | crops | pre-training | val mIoU | unseen drives | parameters | MACs | file "
        "| SHA-256 |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    commands = []
    for entry in entries:
        if not entry["weights"]:
            continue
        details = entry["details"]
        parts = list(training_parts(details))[::-1]
        crop = details.get("training", {}).get("crop")
        cells = (
            f"`{entry['model']}`",
            f"`{details.get('recipe', '')}`",
            "; ".join(re.split(r", | \(", str(text))[0] for text in details.get("data", [])),
            f"{crop[1]}x{crop[0]}" if crop else "",
            details.get("pretraining", "none"),
            _on_val(entry) + (" (1)" if entry["score_before_the_last_part"] else ""),
            _on_drives(entry),
            f"{entry['parameters'] / 1e6:.2f} M",
            f"{entry['macs'] / 1e9:.2f} G",
            _size(entry["weights_bytes"]),
            f"`{entry['sha256'][:12]}`",
        )
        lines.append(f"| {' | '.join(cells)} |")
        commands += [f"# {entry['model']}", *(str(part.get("command", "")) for part in parts)]
    return "\n".join([*lines, "", "```bash", *commands, "```"])


def _on_val(entry: Mapping[str, Any]) -> str:
    return f"{entry['score']:.1f} %" if entry.get("score_on_validation_split") else "-"


def _on_drives(entry: Mapping[str, Any]) -> str:
    """Tell the range of the scores on rendered drives."""
    drives = [score["miou"] for data, score in entry.get("scores", {}).items() if data.startswith("rendered drive")]
    if not drives:
        return "-"
    least, most = (f"{value + 1e-9:.1f}" for value in (min(drives), max(drives)))  # cards have hundredths: half goes up
    return f"{least} %" if least == most else f"{least} to {most} %"


def _notes(entries: list[dict[str, Any]]) -> list[str]:
    """Say what the table's figures stand for, and what to do where there are none."""
    protocols: dict[str, list[str]] = {}
    for entry in entries:
        if entry.get("score_on_validation_split") and entry["protocol"]:
            before = " by the weights before these frames were added" if entry["score_before_the_last_part"] else ""
            about = f"on {entry['score_on']}{before}: {str(entry['protocol']).strip()}"
            protocols.setdefault(about, []).append(entry["model"])
    notes = [f"val of {', '.join(models)} {protocol}" for protocol, models in protocols.items()]
    if not all(entry["weights"] for entry in entries):
        notes.append("none yet: rt-seg train makes weights; --weights FILE takes a file of your own")
    return notes


def _size(count: int | None) -> str:
    if count is None:
        return "none yet"
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.0f} kB"
