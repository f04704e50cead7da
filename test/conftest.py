"""What all tests share: where things are, and what is said when a test cannot run here."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What the backends make once is made once for all tests and the processes that they start, apart from the user's own.
os.environ.setdefault("RT_SEG_CACHE", str(ROOT / "build" / "test_cache"))
# Started in a shell's background, tests and their processes would inherit a Ctrl-C that nobody hears.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for the tests that import ONNX Runtime themselves


def pytest_report_header() -> str:
    """Tell which checkout is tested: an environment holds the package of the one that it was set up in."""
    import rt_seg_ros

    return f"rt_seg_ros of {Path(rt_seg_ros.__file__).parent}"


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the repository's top folder."""
    return ROOT


@pytest.fixture(scope="session")
def camvid() -> Path:
    """Return the CamVid folder that RT_SEG_CAMVID names, or skip."""
    folder = os.environ.get("RT_SEG_CAMVID", "")
    if not folder:
        pytest.skip("needs CamVid (CC BY-NC 4.0, not part of the package): set RT_SEG_CAMVID to its folder")
    return Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, with the reason."""
    reasons = {"ros": _no_ros(), "gpu": _no_gpu(items), "tensorrt": _no_tensorrt_rtx()}
    for item in items:
        for mark, reason in reasons.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def _no_ros() -> str | None:
    try:
        import rclpy  # noqa: F401

        from rt_seg_ros.msg import ClassMasks  # noqa: F401
    except ImportError as error:
        return f"needs ROS 2 with this package's messages built ({error}): make setup"
    return None


def _no_gpu(items: list[pytest.Item]) -> str | None:
    if not any(item.get_closest_marker("gpu") for item in items):
        return None
    import torch

    return None if torch.cuda.is_available() else "needs an NVIDIA GPU and a CUDA build of PyTorch"


def _no_tensorrt_rtx() -> str | None:
    found = importlib.util.find_spec("tensorrt_rtx") is not None
    return None if found else "needs TensorRT for RTX, which builds without a GPU (pip install tensorrt_rtx)"
