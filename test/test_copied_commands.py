"""Commands that are printed to be copied."""

from __future__ import annotations

import shlex

from rt_seg_ros.cli import main


def test_commands_after_a_drive_take_names_with_blanks(tmp_path, capsys):
    out = tmp_path / "my $drive"
    assert main(["drive", "synth", str(out), "--frames", "1", "--size", "48x64"]) == 0
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith(("  rt-seg", "  ros2"))]
    assert len(lines) == 4 and all(str(out) in shlex.split(line) for line in lines)
    assert "its overlay as a video; --labels" in said
