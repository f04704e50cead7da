#!/usr/bin/env python3
"""Build the package's messages into the virtual environment this runs in.

Its prefix is a ROS 2 install space where ROS 2 came as wheels (requirements/ros.txt). On a machine with a ROS 2 of
its own, use colcon instead. Nothing is done where what was built is still up to date.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PREFIX = Path(sys.prefix)
SITE = Path(sysconfig.get_paths()["platlib"])
BUILD = ROOT / "build" / f"messages-{sys.implementation.cache_tag}"
STAMP = PREFIX / "share" / "rt_seg_ros" / "messages.sha256"


def mend_exports() -> None:
    """Point the wheels' exported CMake targets at this interpreter's headers, not their build machine's."""
    import numpy

    headers = sysconfig.get_paths()["include"]
    for export in PREFIX.glob("share/*/cmake/*__rosidl_generator_pyExport.cmake"):
        text = export.read_text()
        mended = re.sub(r"/opt/python/[^;\"]*/include/python3\.\d+", headers, text)
        mended = re.sub(r"[^;\"]*/site-packages/numpy/_?core/include", numpy.get_include(), mended)
        if mended != text:
            export.write_text(mended)


def state() -> str:
    """Return a hash of what the build depends on."""
    digest = hashlib.sha256(f"{sys.version} {PREFIX} {ROOT}".encode())
    for path in [ROOT / "CMakeLists.txt", ROOT / "package.xml", *sorted((ROOT / "msg").glob("*.msg"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    """Build and install; return CMake's exit status."""
    now = state()
    library = SITE / "rt_seg_ros" / "msg" / "__init__.py"
    if library.is_file() and STAMP.is_file() and STAMP.read_text() == now:
        return 0
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        print("build_messages: needs CMake and a C++ compiler (Debian: apt install cmake g++)", file=sys.stderr)
        return 1
    mend_exports()
    shutil.rmtree(BUILD, ignore_errors=True)  # half a build of an interrupted run is not worth keeping
    BUILD.mkdir(parents=True)
    environment = {**os.environ, "PATH": f"{PREFIX / 'bin'}:{os.environ['PATH']}"}
    log = BUILD / "log.txt"
    steps = (
        ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-DRT_SEG_ROS_INTERFACES_ONLY=ON", "-DBUILD_TESTING=OFF",
         "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_PREFIX_PATH={PREFIX}", f"-DCMAKE_INSTALL_PREFIX={PREFIX}",
         f"-DPython3_EXECUTABLE={sys.executable}"],
        ["cmake", "--build", str(BUILD), "--parallel", str(os.cpu_count() or 1)],
        ["cmake", "--install", str(BUILD)],
    )  # fmt: skip
    print("building the messages (about 20 s)...", flush=True)
    with log.open("w") as output:
        for step in steps:
            result = subprocess.run(  # noqa: S603 - the steps above
                step, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False
            )
            if result.returncode:
                print(log.read_text()[-4000:], file=sys.stderr)
                print(f"build_messages: {' '.join(step[:2])} failed; the whole log is {log}", file=sys.stderr)
                return result.returncode
    STAMP.parent.mkdir(parents=True, exist_ok=True)
    STAMP.write_text(now)
    return 0


if __name__ == "__main__":
    sys.exit(main())
