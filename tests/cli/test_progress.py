"""Progress bars: on a terminal, and nowhere else."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")  # POSIX only


def read_all(terminal: int) -> str:
    """What a process has written to a terminal that nobody else holds."""
    content = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # Linux's end of a terminal
            part = b""
        if not part:
            return content.decode()
        content += part


def test_progress_goes_to_a_terminal_alone(tiny_checkpoint, tmp_path):
    Image.fromarray(np.zeros((40, 56), np.uint8)).save(tmp_path / "a.png")
    flags = ["--threshold", "1", "--model", tiny_checkpoint, "--output", tmp_path / "out", "--device", "cpu"]
    command = [sys.executable, "-m", "irstd_ldm.cli", "detect", tmp_path / "a.png", *flags]
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    shown = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=end, text=True)
    os.close(end)
    bars = read_all(terminal)
    printed, _ = shown.communicate(timeout=120)
    os.close(terminal)
    assert shown.returncode == 0
    assert "0/1" in bars and "1/1" in bars and "image" in bars
    quiet = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert quiet.stdout == printed != ""
