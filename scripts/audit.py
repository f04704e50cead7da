#!/usr/bin/env python3
"""Hold what is installed against the databases of known vulnerabilities, by running pip-audit.

Exit status: 0 nothing known, or no database could be reached, which is said aloud; 1 a vulnerability that a newer
version mends. One that nothing mends yet is told, and is no failure: there is nothing to install.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

#: In order of preference; where one cannot be reached the next is asked.
SERVICES = ("pypi", "osv")


def ask(service: str, site: str) -> list[dict[str, Any]] | None:
    """Return what a database knows of each package in a site-packages folder, or None where it cannot be reached."""
    options = ["--path", site, "--vulnerability-service", service, "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(  # noqa: S603 - pip-audit, by this interpreter
            [sys.executable, "-m", "pip_audit", *options], capture_output=True, text=True, timeout=300, check=False
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return None
    # A database behind a mirror that only has files answers, but knows no package at all.
    return found if any("vulns" in package for package in found) else None


def judge(packages: Iterable[dict[str, Any]]) -> tuple[int, list[str]]:
    """Return the exit status and what to say."""
    packages = list(packages)
    unknown = [package["name"] for package in packages if "vulns" not in package]
    lines, status = [], 0
    for package in packages:
        for vulnerability in package.get("vulns", ()):
            mended = ", ".join(vulnerability["fix_versions"])
            status = 1 if mended else status
            remedy = f"mended in {mended}" if mended else "not mended yet"
            lines.append(f"{package['name']} {package['version']}: {vulnerability['id']}, {remedy}")
    lines.append(f"{len(packages) - len(unknown)} packages audited, {len(lines)} known vulnerabilities")
    if unknown:
        lines.append(f"not in the database: {', '.join(unknown)}")
    return status, lines


def main() -> int:
    """Ask, tell, and return the exit status."""
    for service in SERVICES:
        packages = ask(service, sys.argv[1])
        if packages is not None:
            status, lines = judge(packages)
            print(f"by the advisories of {service}:", *lines, sep="\n")
            return status
    print(f"NOT AUDITED: no database of vulnerabilities can be reached from here (tried: {', '.join(SERVICES)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
