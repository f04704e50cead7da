"""What `make audit` makes of pip-audit's answer."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "audit.py"


@pytest.fixture(scope="module")
def audit():
    specification = importlib.util.spec_from_file_location("audit", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def package(name: str, *fixes: list[str]) -> dict:
    vulnerabilities = [{"id": f"CVE-{n}", "fix_versions": f, "aliases": []} for n, f in enumerate(fixes)]
    return {"name": name, "version": "1.0", "vulns": vulnerabilities}


UNKNOWN = {"name": "ros-thing", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "status", "told"),
    [
        (
            [package("good"), UNKNOWN],
            0,
            ["1 packages audited, 0 known vulnerabilities", "not in the database: ros-thing"],
        ),
        ([package("bad", ["1.1", "2.0"])], 1, ["bad 1.0: CVE-0, mended in 1.1, 2.0", "1 packages audited, 1 known"]),
        ([package("open", [])], 0, ["open 1.0: CVE-0, not mended yet", "1 known"]),
    ],
)
def test_only_what_can_be_mended_is_a_failure_and_all_is_told(audit, packages, status, told):
    found, lines = audit.judge(packages)
    assert found == status and all(text in "\n".join(lines) for text in told), lines


def test_no_answer_is_none_and_not_a_clean_bill(audit, tmp_path):
    assert audit.ask("no_such_service", str(tmp_path)) is None
