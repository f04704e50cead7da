"""``rt-seg view``: a local web page with the camera, its labels, and how the pipeline is doing."""

from __future__ import annotations

import argparse
import re
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from rt_seg_ros.bags.results import DEFAULT_NAMESPACE
from rt_seg_ros.cli.options import add_model_options, need_ros, segmenter_config
from rt_seg_ros.errors import UserError
from rt_seg_ros.labels import load_label_space
from rt_seg_ros.networks import list_networks
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
from rt_seg_ros.sources import SourceFrame, open_source
from rt_seg_ros.web.board import Board, State
from rt_seg_ros.web.feed import Feed, FileFeed, SegmentingFeed, model_choices
from rt_seg_ros.web.relay import RelayFeed
from rt_seg_ros.web.server import ViewServer
from rt_seg_ros.zoo import DEFAULT_LABEL_SPACE, card_score, find_model, list_models

SUMMARY = "watch a node, a camera topic, a recording or a video in the browser"
EPILOG = """\
what SOURCE can be
  left out   a node that runs (--node): what it publishes is shown, its own latency and counts, and the page changes
             the model of the node itself; nothing is segmented here
  /TOPIC     a camera topic: its images are segmented here, beside whatever else runs
  a path     a rosbag2, a video, a folder of images or an image: played in its own time, and segmented here

The newest frame is shown, never a queue: frames that the network has no time for are dropped and counted, and a
browser that is slow gets fewer of them. While no browser looks, nothing is segmented and a recording waits.

The page is for this machine: http://127.0.0.1:8642. From elsewhere, best through ssh -L 8642:127.0.0.1:8642 ROBOT.
With another --host it is open to the network, unencrypted, and needs the token that stands in the printed address.

examples:
  rt-seg view                                        the node /segmentation
  rt-seg view --node /front/segmentation --read-only
  rt-seg view /camera/image_raw --model csrnet_light
  rt-seg view drive.mcap --loop
  rt-seg view drive.mp4 --rate 0.5 --open

exit status: 0 ended by Ctrl-C; 2 it could not begin
"""

_DEFAULT_PORT = 8642  # Foxglove's bridge has 8765, rosbridge 9090
_TOPIC = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument(
        "source", nargs="?", default="", metavar="SOURCE", help="path or camera topic; left out: a node that runs"
    )
    parser.add_argument("--topic", default="", help="image topic of a rosbag2, where it has more than one")
    parser.add_argument("--rate", type=float, default=1.0, metavar="R", help="of playing, 1: the source's own time")
    parser.add_argument("--loop", action="store_true", help="begin a path again at its end")
    parser.add_argument(
        "--node", default=DEFAULT_NAMESPACE, metavar="NAME", help="node to watch (default: %(default)s)"
    )
    parser.add_argument("--camera", default="", metavar="NAME", help="which of a node's cameras at first")
    page = parser.add_argument_group("the page")
    page.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    page.add_argument("--port", type=int, default=_DEFAULT_PORT, help="0: any that is free (default: %(default)s)")
    page.add_argument("--open", action="store_true", help="open it in this machine's browser")
    page.add_argument("--read-only", action="store_true", help="let the page change nothing, only show")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    if not args.rate > 0:
        raise UserError(f"--rate is {args.rate}; expected a number above 0")
    prepare = _kind(args)
    board = Board(State(source=_name(args), kind="drive"))
    with ExitStack() as stack:
        server = ViewServer(board, args.host, args.port, args.read_only)  # a port that is taken is told at once
        stack.callback(server.stop)
        feed = prepare(args, board, stack)
        stack.callback(feed.close)
        feed.start()
        server.start(feed)
        _tell(server)
        if args.open:
            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):  # the usual end, not a failure
            threading.Event().wait()
    return 0


# --- what is shown --------------------------------------------------------------------------------------------------

Prepare = Callable[[argparse.Namespace, Board, ExitStack], Feed]

#: Options that say how frames are segmented here, how they are played, and which node is watched; with their defaults.
_SEGMENTING: dict[str, object] = {
    name: getattr(SegmenterConfig, name)
    for name in (
        "model", "weights", "backend", "device", "precision", "downsampling_ratio", "confidence_threshold", "threads"
    )
} | {"size": None}  # fmt: skip
_PLAYING: dict[str, object] = {"topic": "", "rate": 1.0, "loop": False}
_WATCHING: dict[str, object] = {"node": DEFAULT_NAMESPACE, "camera": ""}
_INSTEAD = "a recording, a video or a folder is shown without"


def _kind(args: argparse.Namespace) -> Prepare:
    """Decide what SOURCE is, and refuse what cannot be shown before anything is loaded."""
    if not args.source:
        reason = "without SOURCE a node that runs is shown: give a SOURCE, or choose the node's model in the page"
        _refuse(args, _SEGMENTING | _PLAYING, reason)
        need_ros("to show a node that runs", _INSTEAD)
        return _watch_node
    _refuse(args, _WATCHING, "SOURCE is segmented here, whatever nodes there are: leave SOURCE out to watch a node")
    config = segmenter_config(args)
    find_model(config.model, config.label_space, config.weights, config.allow_random_weights)
    if _TOPIC.fullmatch(args.source) and not Path(args.source).exists():
        _refuse(args, _PLAYING, f"{args.source} is no file, so it is taken for a camera topic, which is not played")
        need_ros(f"to show {args.source} (there is no such file, so it is taken for a camera topic)", _INSTEAD)
        print(f"{args.source} is no file: taken for a camera topic", file=sys.stderr)
        return _watch_camera
    return _play


def _refuse(args: argparse.Namespace, options: Mapping[str, object], reason: str) -> None:
    """Refuse options, given with their defaults, that would do nothing."""
    for option, default in options.items():
        if getattr(args, option) != default:
            raise UserError(f"--{option.replace('_', '-')} has no effect here: {reason}")


def _name(args: argparse.Namespace) -> str:
    source = args.source or "/" + args.node.strip("/")
    return source if source.startswith("/") and not Path(source).exists() else Path(source).resolve().name


def _play(args: argparse.Namespace, board: Board, stack: ExitStack) -> Feed:
    source = open_source(args.source, args.topic)
    board.update(kind=source.kind)
    segmenter, choices = _loaded(args, board)
    return FileFeed(board, segmenter, choices, args.model, source, args.rate, args.loop)


def _watch_camera(args: argparse.Namespace, board: Board, stack: ExitStack) -> Feed:
    from rt_seg_ros.ros.graph import GraphThread
    from rt_seg_ros.ros.watch.camera_watch import CameraWatch

    board.update(kind="camera", can=["model"])
    segmenter, choices = _loaded(args, board)
    feed = SegmentingFeed(board, segmenter, choices, args.model)
    graph = GraphThread("rt_seg_view")
    stack.callback(graph.close)
    CameraWatch(
        graph,
        args.source,
        lambda stamp_ns, frame_id, read: feed.take(lambda: SourceFrame("", read(), stamp_ns, frame_id)),
        lambda status, message: board.update(status=status, message=message),
        lambda: board.watched,
    )
    graph.start()
    return feed


def _watch_node(args: argparse.Namespace, board: Board, stack: ExitStack) -> Feed:
    from rt_seg_ros.ros.graph import GraphThread
    from rt_seg_ros.ros.watch.node_watch import NodeWatch

    space = load_label_space(args.label_space) if args.label_space else None
    board.update(kind="node")
    graph = GraphThread("rt_seg_view")
    stack.callback(graph.close)
    feed = RelayFeed(board, NodeWatch(graph, args.node, args.camera), _models(args.allow_random_weights), space)
    graph.start()
    return feed


def _loaded(args: argparse.Namespace, board: Board) -> tuple[Segmenter, dict[str, SegmenterConfig]]:
    """Load the first model, and name those that the page may change over to."""
    config = segmenter_config(args)
    print(f"loading {config.model}", file=sys.stderr)
    segmenter = Segmenter(config)
    listed = _models(args.allow_random_weights)
    if args.weights:
        listed = [one for one in listed if one["name"] != config.model]
        listed.insert(0, {"name": config.model, "label": f"{config.model}, {Path(args.weights).name}"})
    elif config.model not in [one["name"] for one in listed]:
        listed.insert(0, {"name": config.model, "label": config.model})
    board.update(models=listed)
    return segmenter, model_choices(config, [one["name"] for one in listed])


def _models(random_ones_too: bool) -> list[dict[str, str]]:
    """Return what can be run: name, label for people, and name of the weights."""
    cards = {card.name: card for card in list_models()}
    listed = []
    for network in list_networks():
        default = cards.pop(f"{network}_{DEFAULT_LABEL_SPACE}", None)
        if default is not None:
            score = card_score(default)
            scored = f", {score.miou:.1f} % mIoU" if score and score.on_validation_split else ""
            listed.append({"name": network, "label": f"{network}{scored}", "card": default.name})
        elif random_ones_too:
            listed.append({"name": network, "label": f"{network}, random weights", "card": network})
    listed += [{"name": name, "label": name, "card": name} for name in sorted(cards)]
    return listed


def _tell(server: ViewServer) -> None:
    """Say where the page is, and who can see it."""
    print(f"\n  {server.url}\n")
    if server.is_open_to_network:
        print(f"  {server.url_at(socket.gethostname())}\n")
        print(
            "warning: others on the network can reach this page, and what it shows and the address with its token go "
            "there unencrypted. Whoever has the address can watch"
            + (". " if server.read_only else ", and change the model. ")
            + f"Safer: leave --host out, and tunnel: ssh -L {server.server_port}:127.0.0.1:{server.server_port} "
            + socket.gethostname(),
            file=sys.stderr,
        )
    print("Ctrl-C ends it", flush=True)
