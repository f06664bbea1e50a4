"""What is not installed is named with a command that works from anywhere."""

from importlib.metadata import PackageNotFoundError

from packaging.requirements import Requirement

from irstd_ldm import extras

from .test_packaging import ROOT


def test_the_command_names_the_packages_of_the_extra():
    setup = (ROOT / "setup.py").read_text()
    for extra in ("video", "eval", "demo", "export"):
        command = extras.install_command(extra)
        assert command.startswith('pip install "') and command.count('"') % 2 == 0
        for needed in command.split('"')[1::2]:
            assert Requirement(needed).name in setup


def test_without_metadata_the_extra_is_named(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", absent)
    assert extras.install_command("video") == 'pip install "irstd-ldm[video]"'
