"""Labels that are the same in every process, and files that outlive a disk that is full."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from rt_seg_ros.cache import Cache

SAME = """
import hashlib, json, sys
import numpy as np
from rt_seg_ros.pipeline import Segmenter, SegmenterConfig
frame = np.random.default_rng(4).integers(0, 255, (90, 120, 3), np.uint8)
digests = {}
for name in sys.argv[1:]:
    segmenter = Segmenter(SegmenterConfig(model="cgnet_camvid11", backend=name, device="cpu", threads=1))
    for _ in range(3):
        result = segmenter.segment(frame, confidence=True)
        digest = hashlib.sha256(result.labels.tobytes() + result.confidence.tobytes()).hexdigest()
        digests.setdefault(name, []).append(digest)
print(json.dumps(digests))
"""

FULL = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from rt_seg_ros.cache import Cache
from rt_seg_ros.errors import UserError
from rt_seg_ros.files import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
assert Cache("engines").save("engine", {"weights": "a"}, {"engine": b"2" * 5000}) is None
try:
    write_text(Path(sys.argv[1]), "2" * 5000)
except UserError as error:
    print(error)
"""


def run(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_frame_has_the_same_labels_bit_for_bit_from_run_to_run():
    names = ["torch", *(name for name in ("openvino", "onnxruntime") if importlib.util.find_spec(name))]
    with ThreadPoolExecutor() as pool:
        first, second = (json.loads(told) for told in pool.map(lambda _: run(SAME, *names), range(2)))
    assert first == second
    for name, digests in first.items():
        assert len(set(digests)) == 1, name


def test_on_a_full_disk_an_old_good_file_survives(tmp_path, monkeypatch):
    pytest.importorskip("resource", reason="limits the size of files, as POSIX does")
    monkeypatch.setenv("RT_SEG_CACHE", str(tmp_path / "cache"))
    cache, key = Cache("engines"), {"weights": "a"}
    cache.save("engine", key, {"engine": b"1" * 5000})
    report = tmp_path / "report.json"
    report.write_text("1" * 5000)
    before = hashlib.sha256(report.read_bytes()).digest()
    assert "cannot be written: File too large; what was there before is untouched" in run(FULL, str(report))
    assert cache.load("engine", key) == {"engine": b"1" * 5000}
    assert hashlib.sha256(report.read_bytes()).digest() == before
    left = [path.name for path in (*tmp_path.iterdir(), *(tmp_path / "cache" / "engines").iterdir())]
    assert not [name for name in left if name.startswith(".")], "nothing half written stays"
