"""`irstd-ldm push` and `pull` against a Hub on loopback, one process a command."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from irstd_ldm.hub.format import seal
from irstd_ldm.hub.remote_code import one_module, remote_code

from .server import TOKEN

COMMAND = ("-m", "irstd_ldm.cli")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
CODE = ("image_encoder/irstd_image_encoder.py", "unet/irstd_unet.py", "vae/irstd_mask_vae.py")


@pytest.fixture
def run_folder(tiny_checkpoint, tmp_path) -> Path:
    """A trainer's output folder: a checkpoint with training state, logs and pictures of the data beside it."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "run")
    (folder / "README.md").write_text("# A card by hand\n")
    (folder / "val.txt").write_text("frame_1\n")
    for name in ("checkpoint-4/optimizer.bin", "checkpoint-4/random_states_0.pkl", "logs/events", "validation.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not to be shared")
    (folder / "settings.yaml").write_text("train_data_dir: /not/to/be/shared\n")
    return folder


@pytest.fixture
def command(client, tmp_path):
    def command(*arguments, token=TOKEN, **keywords):
        done = client(*COMMAND, *arguments, cwd=tmp_path, token=token, **keywords)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return command


def change_weights(folder: Path, byte: bytes) -> None:
    """Makes weights that the Hub has not seen; it does not ask twice for the same ones."""
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1] + byte)
    seal(folder)


def shared_files(folder: Path) -> dict[str, bytes]:
    left_out = {"checkpoint-4", "logs", "validation.png", "settings.yaml"}
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {name.as_posix(): path.read_bytes() for name, path in files.items() if name.parts[0] not in left_out}


def uploaded_files(folder: Path) -> dict[str, bytes]:
    """Those of the folder, with remote code and the index that names it."""
    code = {path.as_posix(): content for path, content in remote_code(folder).items()}
    assert set(code) == {"model_index.json", "pipeline.py", *CODE}
    return shared_files(folder) | code


def test_push_and_pull(hub, command, run_folder, tmp_path):
    pushed = command("push", "run", "you/pushed")
    assert pushed.returncode == 0, pushed.stderr
    assert "left out, no part of a checkpoint: checkpoint-4, logs, settings.yaml, validation.png\n" in pushed.stdout
    commit = hub.repos["you/pushed"].branches["main"]
    assert f"{hub.endpoint}/you/pushed/commit/{commit}\n" in pushed.stdout
    assert hub.files("you/pushed") == uploaded_files(run_folder)

    (run_folder / "val.txt").write_text("frame_2\n")
    branch = command("push", "run", "you/pushed", "--revision", "second")
    assert branch.returncode == 0, branch.stderr
    assert hub.files("you/pushed")["val.txt"] == b"frame_1\n"
    assert hub.files("you/pushed", "second")["val.txt"] == b"frame_2\n"

    hub.add("you/pushed", {**hub.files("you/pushed"), "unet/old.bin": b"x", "loader.pkl": b"x", "vae/state.pt": b"x"})
    for arguments, content in (((), b"frame_1\n"), (("--revision", "second"), b"frame_2\n")):
        done = command("pull", "you/pushed", "pulled", *arguments)
        assert done.returncode == 0, done.stderr
        assert shared_files(tmp_path / "pulled") == {**uploaded_files(run_folder), "val.txt": content}
        shutil.rmtree(tmp_path / "pulled")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    asked = [path for _, path in hub.requests if path.endswith((".bin", ".pkl", ".pt"))]
    assert not asked


def test_older_code_beside_the_weights_is_not_sent(hub, command, run_folder):
    """The first checkpoints held code of their own; what is ours is written anew, and other files stay."""
    expected = uploaded_files(run_folder)
    index = json.loads((run_folder / "model_index.json").read_text())
    index |= {
        "_class_name": ["pipeline", "IRSTDLatentPipeline"],
        "unet": ["load_irstd_ldm_models_unet", index["unet"][1]],
    }
    (run_folder / "model_index.json").write_text(json.dumps(index))
    for name in ("pipeline.py", "irstd_ldm_models_unet.py", "unet/load_irstd_ldm_models_unet.py", "scheduler/own.py"):
        (run_folder / name).write_text("raise SystemExit\n")
    pushed = command("push", "run", "you/older")
    assert pushed.returncode == 0, pushed.stderr
    assert hub.files("you/older") == expected | {"scheduler/own.py": b"raise SystemExit\n"}


def link(path: Path) -> None:
    """Puts a link in the place of a file or a folder."""
    path.symlink_to(path.rename(path.with_name("elsewhere")))


def damage_index(folder: Path) -> None:
    index = (folder / "model_index.json").read_text()
    (folder / "model_index.json").write_text(index.replace('"format_version": 2', '"format_version": 9'))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: shutil.rmtree(c), "run/model_index.json: No such file or directory"),
        (lambda c: (c / "model_index.json").write_text("{}"), "must have `_class_name`"),
        (damage_index, "`format_version` is 9; this version of irstd-ldm reads up to 2"),
        (lambda c: shutil.rmtree(c / "vae"), "no config of its component `vae`"),
        (lambda c: (c / WEIGHTS).unlink(), "run/unet has no weights"),
        (lambda c: (c / WEIGHTS).write_bytes((c / WEIGHTS).read_bytes()[:-1]), "or only a part of one"),
        (lambda c: (c / WEIGHTS).write_bytes(pickle.dumps([0] * 100)), f"run/{WEIGHTS} is not a safetensors file"),
        (lambda c: (c / "unet/extra.bin").touch(), "run/unet/extra.bin may be a pickle"),
        (lambda c: (c / "extra.PKL").touch(), "run/extra.PKL may be a pickle"),
        (lambda c: link(c / "val.txt"), "run/val.txt is a link"),
        (lambda c: link(c / WEIGHTS), f"run/{WEIGHTS} is a link"),
        (lambda c: link(c / "vae"), "run/vae is a link"),
        (lambda c: (c / WEIGHTS).write_bytes((c / WEIGHTS).read_bytes()[:-1] + b"?"), "or of another checkpoint"),
    ],
)
def test_push_sends_nothing_of_what_is_no_checkpoint(hub, run_folder, tmp_path, monkeypatch, capsys, damage, words):
    from irstd_ldm.cli.main import main

    damage(run_folder)
    monkeypatch.chdir(tmp_path)
    asked = len(hub.requests)
    assert main(["push", "run", "you/refused"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("irstd-ldm push: ") and words in line
    assert len(hub.requests) == asked


def test_a_push_replaces_the_weights_of_an_earlier_one(hub, command, run_folder, tmp_path):
    """In the same commit; parts of the earlier weights would be loaded in place of the new ones."""
    stale = ("unet/diffusion_pytorch_model.safetensors.index.json", WEIGHTS.replace(".", "-00001-of-00002."))
    other = (WEIGHTS.replace(".", ".fp16."), "other/diffusion_pytorch_model-00001-of-00002.safetensors")
    hub.add("you/parts", dict.fromkeys((*stale, *other), b"x"))
    done = command("push", "run", "you/parts")
    assert done.returncode == 0, done.stderr
    assert hub.files("you/parts") == uploaded_files(run_folder) | dict.fromkeys(other, b"x")
    assert hub.repos["you/parts"].messages[1:] == ["Upload run"]


def test_a_pull_takes_what_the_checkpoint_names_and_checks_it(hub, command, run_folder, tmp_path):
    assert command("push", "run", "you/named").returncode == 0
    extra = ("numpy.py", "unet/json.py", "requirements.txt", "data.json", "unet/sub/config.json", "other/config.json")
    hub.add("you/named", hub.files("you/named") | dict.fromkeys(extra, b"{}"))
    done = command("pull", "you/named", "pulled")
    assert done.returncode == 0, done.stderr
    assert shared_files(tmp_path / "pulled") == uploaded_files(run_folder)
    oid = hub.repos["you/named"].commits[hub.repos["you/named"].branches["main"]][WEIGHTS].oid
    hub.damaged.add(oid)
    done = command("pull", "you/named", "damaged")
    hub.damaged.clear()
    assert done.returncode == 1
    assert done.stderr == f"irstd-ldm pull: you/named: {WEIGHTS} is not what the Hub announces: its digest differs\n"
    assert {path.name for path in tmp_path.iterdir()} == {"run", "pulled"}


SEVERAL = """
import contextlib
import io
import json
import os
import sys
from irstd_ldm.cli.main import main

done = []
for arguments, logged_in in json.loads(sys.argv[1]):
    token = os.environ.pop("HF_TOKEN")
    if logged_in:
        os.environ["HF_TOKEN"] = token
    with contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(arguments)
    os.environ["HF_TOKEN"] = token
    done.append([code, err.getvalue()])
json.dump(done, open("done.json", "w"))
"""
LOGIN = "this login (`hf auth login`)"
ERRORS = [
    ("push run you/mine", False, 1, f"you/mine: the Hub refuses {LOGIN}: Invalid username or password"),
    ("push run other/name", True, 1, f"other/name: the Hub refuses {LOGIN}: You don't have the rights"),
    ("push run no//name", True, 2, "'no//name'"),
    ("pull you/secret new", False, 1, "you/secret: the Hub has no such repository, or it is private and this login"),
    ("pull you/bad new", True, 1, f"you/bad: {WEIGHTS} is not a safetensors file"),
    ("pull you/bad new --revision v9", True, 1, "you/bad: the repository has no such revision"),
    ("pull you/bad full", True, 2, "full: exists and is not an empty folder; nothing is overwritten"),
]


def test_errors_are_one_line(hub, client, command, run_folder, tmp_path):
    hub.add("you/secret", shared_files(run_folder), private=True)
    hub.add("you/bad", {**shared_files(run_folder), WEIGHTS: b"garbage"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()
    asked = json.dumps([(line.split(), logged_in) for line, logged_in, _, _ in ERRORS])
    assert client("-c", SEVERAL, asked, cwd=tmp_path, token=TOKEN).returncode == 0
    done = json.loads((tmp_path / "done.json").read_text())
    for (line, _, code, words), (got, err) in zip(ERRORS, done, strict=True):
        assert got == code, line
        assert err.startswith(f"irstd-ldm {line.split()[0]}: ") and err.count("\n") == 1
        assert words in err
    assert "you/mine" not in hub.repos
    assert {path.name for path in tmp_path.iterdir()} == {"run", "full", "done.json"}
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]

    nobody = command("push", "run", "you/mine", endpoint="http://127.0.0.1:9")
    assert nobody.returncode == 1
    assert nobody.stderr == "irstd-ldm push: you/mine: [Errno 111] Connection refused\n"


def test_a_broken_upload_is_tried_again(hub, command, run_folder):
    change_weights(run_folder, b"\x01")
    hub.drop_uploads = 1
    asked = len(hub.requests)
    done = command("push", "run", "you/tried_again")
    assert done.returncode == 0, done.stderr
    assert hub.drop_uploads == 0
    uploads = [path for method, path in hub.requests[asked:] if method == "PUT"]
    assert len(uploads) == len(set(uploads)) + 1
    assert hub.files("you/tried_again") == uploaded_files(run_folder)


def test_a_killed_upload_leaves_no_half_commit(hub, start, command, run_folder, tmp_path):
    change_weights(run_folder, b"\x02")
    hub.upload_begun.clear()
    hub.release.clear()
    process = start(*COMMAND, "push", "run", "you/killed", cwd=tmp_path, token=TOKEN)
    assert hub.upload_begun.wait(60)
    process.kill()
    process.communicate()
    hub.drop_uploads = 100
    hub.release.set()
    assert hub.files("you/killed") == {}

    hub.drop_uploads = 0
    assert command("push", "run", "you/killed").returncode == 0
    assert hub.files("you/killed") == uploaded_files(run_folder)


def test_a_broken_commit_leaves_the_old_one(hub, command, run_folder):
    assert command("push", "run", "you/steady").returncode == 0
    before = hub.files("you/steady")
    (run_folder / "val.txt").write_text("frame_2\n")
    change_weights(run_folder, b"\x03")
    hub.drop_commits = 1
    broken = command("push", "run", "you/steady")
    assert broken.returncode == 1
    (line,) = broken.stderr.splitlines()
    assert line.startswith("irstd-ldm push: you/steady: ")
    assert hub.files("you/steady") == before

    uploads = hub.count("PUT", "/lfs/")
    assert command("push", "run", "you/steady").returncode == 0
    assert hub.files("you/steady") == uploaded_files(run_folder)
    assert hub.count("PUT", "/lfs/") == uploads  # the weights had arrived


def test_the_commands_import_no_torch(client, tmp_path):
    code = "import sys, irstd_ldm.cli.transfer; print({'torch', 'diffusers'} & set(sys.modules))"
    assert client("-c", code, cwd=tmp_path).stdout == "set()\n"


def test_code_that_imports_the_package_inside_a_function_does_not_leave():
    one_module("irstd_ldm.pipelines.pipeline_irstd_latent", "IRSTDLatentPipeline")  # `detector_class` lies beside it
    with pytest.raises(ValueError, match=r"`irstd_ldm.pipelines.detection`, line \d+: an import of the package must"):
        one_module("irstd_ldm.pipelines.detection", "detector_class")
