"""``rt-seg``: everything that needs no robot, from one command line.

A subcommand is a module here with ``SUMMARY``, ``add_arguments(parser)`` and ``run(args) -> int`` (the exit
status); it is imported only when it is called.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType

from rt_seg_ros import __version__
from rt_seg_ros.cli.output import Output, let_go
from rt_seg_ros.errors import UserError, did_you_mean
from rt_seg_ros.memory import keep_freed_memory

#: Name to summary; the module has the same name, with _ for -.
COMMANDS = {
    "demo": "render a drive, run the real ROS 2 node on it, show the result",
    "models": "list the networks, their cost, their weights and scores",
    "segment": "segment an image, a folder, a video or a recorded drive",
    "evaluate": "score models on a data set or a recorded drive, with a report",
    "compare": "compare two results or streams of labels",
    "benchmark": "measure the speed of networks, pipeline and node on this machine",
    "view": "watch a node, a camera topic, a recording or a video in the browser",
    "explain": "show what in an image speaks for a class, stage by stage (Score-CAM)",
    "train": "train a network from a recipe",
    "ablate": "train the papers' ablation tables, row by row",
    "export": "export a model to ONNX, OpenVINO or TensorRT, also quantised to int8",
    "drive": "make a drive to replay: rendered, or of CamVid frames",
    "play": "publish a recorded drive over ROS 2",
}

#: What a disk or its owner refuses: no fault of the program's, wherever it comes up.
_OF_THE_MACHINE = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}

#: Commands that have work to do beside what they print, and the words with which they only print.
_AT_WORK, _ONLY_PRINTS = {"train", "ablate"}, {"--list", "--dry", "--help", "-h"}

_EPILOG = """\
first steps:
  rt-seg demo                                 see it work, in a minute
  rt-seg segment photo.jpg                    labels and overlay of one image
  rt-seg models                               what there is to choose from
  rt-seg COMMAND --help                       what a command takes, with examples
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``rt-seg`` with the given arguments and return the exit status: 2 for an error of the user's."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _top_level()
    if not arguments or arguments[0].startswith("-"):
        parser.parse_args(arguments)
        parser.print_help()
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS)
        print(f"rt-seg: no command '{name}'{near}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    _take_any_name()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=Output(sys.stderr))
    keep_freed_memory()
    try:
        module, command = command_parser(name)
        with _interrupted_by_termination():
            # Python up to 3.12 loses the -- behind which names may begin with a dash.
            parse = command.parse_args if "--" in arguments else command.parse_intermixed_args
            status = int(module.run(parse(arguments[1:])))
            if sys.stdout is not None:  # it is none where the process was given none
                sys.stdout.flush()  # what cannot be written is told here, not at the interpreter's end
            return status
    except UserError as error:
        print(f"rt-seg {name}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "rt_seg_ros" and error.name != "rt_seg_ros.msg":
            raise
        print(
            f"rt-seg {name}: needs '{error.name}', which is not installed: pip install it, or set up with `make setup`",
            file=sys.stderr,
        )
        return 2
    except ImportError as error:  # of a version that is too old, or too new
        if not error.name or error.name.split(".")[0] == "rt_seg_ros":
            raise
        package = error.name.split(".")[0]
        print(f"rt-seg {name}: '{package}' is installed in a version that does not do: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nrt-seg {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # piped into head, say
        _let_go_of_output()
        if name not in _AT_WORK or _ONLY_PRINTS & set(arguments):
            return 0
        with suppress(OSError):  # it may be the same pipe
            print(f"rt-seg {name}: a pipe broke before the end", file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        _let_go_of_output()
        where = f"{error.filename}: " if error.filename else "what was to be written: "
        print(f"rt-seg {name}: {where}{error.strerror}", file=sys.stderr)
        return 2


def _take_any_name() -> None:
    """Print names of files as the bytes that they are, also where those are no UTF-8."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="surrogateescape")


def _let_go_of_output() -> None:
    """Where standard output takes no more, let the interpreter not try once again at its end."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        let_go(sys.stdout)


def command_parser(name: str) -> tuple[ModuleType, argparse.ArgumentParser]:
    """Return a command's module, and the parser of its arguments.

    :param name: one of :data:`COMMANDS`
    """
    module = importlib.import_module(f"rt_seg_ros.cli.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"rt-seg {name}",
        description=module.SUMMARY,
        epilog=getattr(module, "EPILOG", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return module, parser


@contextmanager
def _interrupted_by_termination() -> Iterator[None]:
    """Treat a terminal that closes and ``kill`` as Ctrl-C: what was begun is put away, child processes end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    heard = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, interrupt) for number in heard}  # nohup had SIGHUP ignored
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _top_level() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    listing = "\n".join(f"  {name:<{width}}{summary}" for name, summary in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="rt-seg",
        usage="rt-seg COMMAND ...",
        description=f"Real-time semantic segmentation for ROS 2.\n\ncommands:\n{listing}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rt-seg {__version__}")
    return parser
