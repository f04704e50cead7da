"""What stands higher in README's layout may import what stands lower, never the other way."""

import ast
import re

LOWEST = 1000  # labels, and what stands beside it


def floors(root):
    """Return how far down each part stands, as README's layout has it: names in the first column, notes behind."""
    layout = (root / "README.md").read_text().split("## Layout")[1].split("```")[1]
    found = {}
    for floor, line in enumerate(re.findall(r"^  (\S.{16})", layout, re.M)):
        for name in re.findall(r"\w+", line.replace(".py", "")):
            found[name] = floor
    return {**found, "labels": LOWEST}


def imported(tree):
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rt_seg_ros":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("rt_seg_ros.")]
        for name in names:
            yield name.split(".")[1], node.lineno


def test_nothing_imports_what_stands_above_it(root):
    known, package, wrong = floors(root), root / "rt_seg_ros", []
    assert known["cli"] < known["ros"] == known["web"] < known["pipeline"] < known["networks"] < LOWEST
    for path in sorted(package.rglob("*.py")):
        own = known.get(path.relative_to(package).parts[0].removesuffix(".py"), LOWEST)
        for part, line in imported(ast.parse(path.read_text(encoding="utf-8"))):
            if known.get(part, LOWEST) < own:
                wrong.append(f"{path.relative_to(root)}:{line} imports {part}")
    assert not wrong, wrong
