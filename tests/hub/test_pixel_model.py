"""A command takes the detector that a Hub repository holds, without a flag."""

import shutil

from .server import TOKEN

COMMAND = ("-m", "irstd_ldm.cli")


def test_the_class_is_that_of_the_repository(hub, client, tiny_diff_checkpoint, tmp_path):
    shutil.copytree(tiny_diff_checkpoint, tmp_path / "run")
    pushed = client(*COMMAND, "push", "run", "you/pixel", cwd=tmp_path, token=TOKEN)
    assert pushed.returncode == 0, pushed.stderr
    shown = client(*COMMAND, "info", "--model", "you/pixel", cwd=tmp_path, token=TOKEN)
    assert shown.returncode == 0, shown.stderr
    assert "pipeline: IRSTDDiffPipeline" in shown.stdout
