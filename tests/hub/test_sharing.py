"""A pipeline travels through the Hub: with the package, with diffusers alone, pinned, private, offline, damaged."""

import json
import pickle
import re
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load, save

from irstd_ldm import IRSTDLatentPipeline

from .server import TOKEN, HubServer

COMPONENTS = ("image_encoder", "unet", "vae")
WEIGHTS = "diffusion_pytorch_model.safetensors"

PUSH = """
import json
import torch
from huggingface_hub import HfApi
from irstd_ldm import IRSTDLatentPipeline

pipeline = IRSTDLatentPipeline.from_pretrained("checkpoint")
print("first", pipeline.push_to_hub("you/tiny"))
HfApi().create_tag("you/tiny", tag="v1")
pipeline.push_to_hub("you/hidden", private=True, commit_message="kept to myself")
pipeline.push_to_hub("you/nested", subfolder="latent/tiny")
pipeline.unet.conv_out.bias.data += 0.5
pipeline.save_pretrained("changed", push_to_hub=True, repo_id="tiny")
pipeline.to(torch.float16).push_to_hub("you/tiny", variant="fp16")
"""

LOAD = """
import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from irstd_ldm import IRSTDImageEncoder, IRSTDLatentPipeline, IRSTDUNet2DConditionModel, MaskAutoencoderKL

exec(open("snippet.py").read())
assert output.mask.shape == (1, 1, 256, 256)
first, image = sys.argv[1], np.load("image.npy")
load = IRSTDLatentPipeline.from_pretrained
pipelines = {
    "main": pipe,
    "tag": load("you/tiny", revision="v1"),
    "commit": load("you/tiny", revision=first),
    "variant": load("you/tiny", variant="fp16"),
    "planted": load("you/planted"),
}
components = {
    "unet": IRSTDUNet2DConditionModel.from_pretrained("you/tiny", subfolder="unet"),
    "vae": MaskAutoencoderKL.from_pretrained("you/tiny", subfolder="vae"),
    "image_encoder": IRSTDImageEncoder.from_pretrained("you/tiny", subfolder="image_encoder"),
    "scheduler": DDIMScheduler.from_pretrained("you/tiny", subfolder="scheduler"),
}
pipelines["components"] = IRSTDLatentPipeline(**components)
pipelines["passed"] = load("you/tiny", cache_dir="another", unet=components["unet"])
assert pipelines["passed"].unet is components["unet"]
assert not list(Path("another").rglob("unet/*.safetensors"))
pipelines["from_pipe"] = IRSTDLatentPipeline.from_pipe(pipelines["main"])
assert pipelines["from_pipe"].unet is pipelines["main"].unet
np.savez("loaded.npz", **{name: pipeline(image).probability for name, pipeline in pipelines.items()})

for keyword in ("dtype", "torch_dtype"):
    half = load("you/tiny", variant="fp16", **{keyword: torch.float16})
    assert {parameter.dtype for parameter in half.unet.parameters()} == {torch.float16}, keyword

errors = {}
calls = [(name, load, {}) for name in json.loads(sys.argv[2])]
calls += [("you/tiny", load, {"revision": "v9"}), ("you/planted", DiffusionPipeline.from_pretrained, {})]
for name, call, keywords in calls:
    try:
        call(name, **keywords)
        errors[name] = None
    except Exception as error:
        errors[name] = [type(error).__name__, str(error)]
print("errors", json.dumps(errors))
"""

WITHOUT_PACKAGE = """
import sys

import numpy as np
from diffusers import DiffusionPipeline

image = np.load("image.npy")
try:
    DiffusionPipeline.from_pretrained("you/tiny")
except ValueError as error:
    print("refused", " ".join(str(error).split()))
exec(open("snippet_without_package.py").read())
outputs = {"hub": pipe(image).probability}
pipeline = DiffusionPipeline.from_pretrained("with_code", trust_remote_code=True)
outputs["folder"] = pipeline(image).probability
np.savez("without.npz", **outputs)
assert not any(name.partition(".")[0] == "irstd_ldm" for name in sys.modules)
print("module", type(pipeline).__module__)
"""

OFFLINE = """
import sys
from pathlib import Path

import numpy as np
from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download
from irstd_ldm import IRSTDLatentPipeline

image = np.load("image.npy")
# By a Hub id diffusers asks the Hub for the commit of remote code, cached or not: so by the folder in the cache.
cached = Path(hf_hub_download("you/tiny", "model_index.json", cache_dir=sys.argv[1], local_files_only=True)).parent
pipelines = {
    "local_files_only": IRSTDLatentPipeline.from_pretrained("you/tiny", local_files_only=True),
    "no_answer": IRSTDLatentPipeline.from_pretrained("you/tiny"),
    "pinned": IRSTDLatentPipeline.from_pretrained("you/tiny", revision="v1"),
    "diffusers": DiffusionPipeline.from_pretrained(cached, trust_remote_code=True),
}
np.savez("offline.npz", **{name: pipeline(image).probability for name, pipeline in pipelines.items()})
try:
    IRSTDLatentPipeline.from_pretrained("you/never_loaded")
except OSError as error:
    print("unknown", error)
"""


class Touch:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def value(out: str, name: str) -> str:
    (line,) = (line for line in out.splitlines() if line.startswith(f"{name} "))
    return line.removeprefix(f"{name} ")


@pytest.fixture(scope="module")
def work(tiny_checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(tiny_checkpoint, folder / "checkpoint")
    IRSTDLatentPipeline.from_pretrained(tiny_checkpoint).save_pretrained(folder / "with_code", remote_code=True)
    np.save(folder / "image.npy", np.random.default_rng(0).integers(0, 255, (70, 50), dtype=np.uint8))  # (H, W)
    return folder


@pytest.fixture(scope="module")
def first_commit(hub, client, work) -> str:
    """Pushes, in a process of its own: a version, its tag, a changed version, half precision, a private copy."""
    done = client("-c", PUSH, cwd=work, token=TOKEN)
    assert done.returncode == 0, done.stderr
    snippets = re.findall(r"```python\n(.*?)```", hub.files("you/tiny")["README.md"].decode(), re.DOTALL)
    for name, snippet in zip(("snippet.py", "snippet_without_package.py"), snippets, strict=True):
        (work / name).write_text(snippet, encoding="utf-8")
    return value(done.stdout, "first").rpartition("/")[2]


@pytest.fixture(scope="module")
def expected(work, first_commit) -> dict[str, np.ndarray]:
    """What the pushed versions compute: `first`, `changed`, and the latter with its weights rounded to half."""
    image = np.load(work / "image.npy")
    changed = IRSTDLatentPipeline.from_pretrained(work / "changed")
    outputs = {
        "first": IRSTDLatentPipeline.from_pretrained(work / "checkpoint")(image).probability,
        "changed": changed(image).probability,
    }
    for name in COMPONENTS:
        for parameter in getattr(changed, name).parameters():
            parameter.data = parameter.data.half().float()
    outputs["rounded"] = changed(image).probability
    assert len({output.tobytes() for output in outputs.values()}) == 3
    return outputs


def damaged(files: dict[str, bytes], executed: Path) -> dict[str, dict[str, bytes | None]]:
    """Repository -> what it changes in the files of a good checkpoint; None takes a file away."""
    weights, index = f"unet/{WEIGHTS}", json.loads(files["model_index.json"])
    tensors = load(files[weights])
    wrong = {name: tensor for name, tensor in tensors.items() if name != "conv_out.weight"}
    folder = [path for path in files if path.startswith("vae/")]
    bad_pickle = pickle.dumps(Touch(executed))
    unsealed = {name: entry for name, entry in index.items() if name != "_sha256"}
    return {
        "you/newer": {"model_index.json": json.dumps(index | {"format_version": 3}).encode()},
        "you/pickled": {weights: None, "unet/diffusion_pytorch_model.bin": bad_pickle},
        "you/disguised": {weights: bad_pickle},
        "you/truncated": {weights: files[weights][: len(files[weights]) // 2]},
        "you/misfit": {weights: save(wrong, {"format": "pt"}), "model_index.json": json.dumps(unsealed).encode()},
        "you/damaged": {weights: files[weights][:-1] + bytes([files[weights][-1] ^ 1])},
        "you/no_folder": dict.fromkeys(folder),
        "you/no_index": {"model_index.json": None},
    }


def test_push_commits_the_finished_files_once(hub, work, first_commit):
    repo = hub.repos["you/tiny"]
    checkpoint = files_of(work / "with_code")
    pushed = hub.files("you/tiny", first_commit)
    assert pushed == checkpoint | {"README.md": pushed["README.md"]}
    changed = hub.files("you/tiny", list(repo.commits)[-2])
    code = {name: data for name, data in checkpoint.items() if name.endswith(".py")}
    index = json.loads(checkpoint["model_index.json"])
    index["_sha256"] = {name: sha256(changed[name]).hexdigest() for name in index["_sha256"]}
    code["model_index.json"] = (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()
    assert changed == files_of(work / "changed") | code | {"README.md": pushed["README.md"]}
    nested = hub.files("you/nested")
    assert nested.pop(".gitattributes", None) in (None, b"")
    assert nested == {f"latent/tiny/{name}": data for name, data in checkpoint.items()}
    half = hub.files("you/tiny")
    assert set(half) - set(changed) == {
        f"{name}/{WEIGHTS.replace('.safetensors', '.fp16.safetensors')}" for name in COMPONENTS
    }
    assert repo.messages == [
        "initial commit", "Upload IRSTDLatentPipeline", "Upload changed", "Upload IRSTDLatentPipeline"
    ]  # fmt: skip
    assert hub.repos["you/hidden"].private and not repo.private
    assert hub.repos["you/hidden"].messages[-1] == "kept to myself"


def test_the_weights_went_by_plain_lfs(hub, first_commit):
    assert hub.count("PUT", "/lfs/") == hub.count("POST", "/lfs-verify") == 3 + 1 + 3
    assert hub.count("GET", "xet") == 0


def test_the_card_is_ours(hub, first_commit):
    card = ModelCard(hub.files("you/tiny")["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("diffusers", "image-segmentation")
    assert 'IRSTDLatentPipeline.from_pretrained("you/tiny")' in card.content


@dataclass(frozen=True)
class Loaded:
    """What a loading process found: arrays by name, errors by repository as [type, text], its HF_HOME and output."""

    arrays: dict[str, np.ndarray]
    errors: dict[str, list[str] | None]
    home: Path
    out: str
    err: str


@pytest.fixture(scope="module")
def loaded(hub, client, work, first_commit, tmp_path_factory) -> Loaded:
    """Loads, in a process and a cache of their own and without a login, with the package."""
    good = hub.files("you/tiny", first_commit)
    repositories = damaged(good, work / "executed")
    for name, changes in repositories.items():
        hub.add(name, {path: data for path, data in (good | changes).items() if data is not None})
    touch = f"from pathlib import Path\nPath({str(work / 'executed')!r}).touch()\n".encode()
    hub.add("you/planted", {path: touch if path.endswith(".py") else data for path, data in good.items()})
    home = tmp_path_factory.mktemp("home")
    names = json.dumps([*repositories, "you/hidden", "you/nowhere"])
    done = client("-c", LOAD, first_commit, names, cwd=work, home=home)
    assert done.returncode == 0, done.stderr
    return Loaded(
        dict(np.load(work / "loaded.npz")), json.loads(value(done.stdout, "errors")), home, done.stdout, done.stderr
    )


@pytest.fixture(scope="module")
def alone(client, work, first_commit, python_without_package, tmp_path_factory) -> Loaded:
    """Loads in the environment without the package."""
    home = tmp_path_factory.mktemp("home")
    done = client("-c", WITHOUT_PACKAGE, cwd=work, home=home, token=TOKEN, python=python_without_package)
    assert done.returncode == 0, done.stderr
    return Loaded(dict(np.load(work / "without.npz")), {}, home, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("name", "version"),
    {
        "main": "changed",
        "tag": "first",
        "commit": "first",
        "variant": "rounded",
        "components": "changed",
        "passed": "changed",
        "from_pipe": "changed",
    }.items(),
)
def test_it_computes_the_same_bits_with_the_package(loaded, expected, name, version):
    np.testing.assert_array_equal(loaded.arrays[name], expected[version])


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("you/newer", "ValueError", "`format_version` is 3; this version of irstd-ldm reads up to 2"),
        ("you/pickled", "OSError", "Could not find the necessary `safetensors` weights"),
        ("you/disguised", "OSError", f"unet/{WEIGHTS}"),
        ("you/truncated", "OSError", f"unet/{WEIGHTS}"),
        ("you/misfit", "ValueError", "unet: the weights do not fit the config, missing keys ['conv_out.weight']"),
        ("you/damaged", "OSError", f"unet/{WEIGHTS} is damaged or of another checkpoint"),
        ("you/no_folder", "ValueError", "vae/irstd_mask_vae.py"),
        ("you/no_index", "OSError", "model_index.json"),
        ("you/hidden", "OSError", "the Hub has no such repository, or it is private and this login"),
        ("you/nowhere", "OSError", "the Hub has no such repository, or it is private and this login"),
        ("you/tiny", "OSError", "you/tiny: the repository has no such revision"),
        ("you/planted", "ValueError", "trust_remote_code=True"),
    ],
)
def test_what_cannot_be_loaded_says_why(loaded, name, kind, words):
    assert loaded.errors[name] is not None
    assert loaded.errors[name][0] == kind, loaded.errors[name]
    assert words in loaded.errors[name][1]


def test_nothing_of_a_repository_is_executed_unasked(work, loaded, expected):
    np.testing.assert_array_equal(loaded.arrays["planted"], expected["first"])
    assert not (work / "executed").exists()
    pickle.loads(pickle.dumps(Touch(work / "would")))
    assert (work / "would").exists()


def test_a_newer_format_is_refused_before_its_weights_are_fetched(hub, loaded):
    newer = hub.repos["you/newer"].branches["main"]
    assert hub.count("GET", f"/you/newer/resolve/{newer}/model_index.json") == 1
    assert hub.count("HEAD", f"/you/newer/resolve/{newer}/unet/") == 0


def test_the_content_network_gets_no_token(hub, loaded, alone):
    assert hub.count("GET", "/cdn/") > 0  # it answers 400 where one is sent


@pytest.mark.parametrize("name", ["hub", "folder"])
def test_it_computes_the_same_bits_with_diffusers_alone(alone, expected, name):
    np.testing.assert_array_equal(alone.arrays[name], expected["changed" if name == "hub" else "first"])
    assert value(alone.out, "module").startswith("diffusers_modules.")


def test_diffusers_alone_refuses_unasked(alone):
    assert "Pass `trust_remote_code=True`" in value(alone.out, "refused")


def test_diffusers_alone_warns_of_no_class(alone):
    assert "Expected types" not in alone.err


def test_offline_after_the_first_load(client, work, loaded, alone, expected):
    gone = HubServer()
    gone.stop()
    cache = alone.home / "hub"
    done = client("-c", OFFLINE, cache, cwd=work, home=loaded.home, endpoint=gone.endpoint)
    assert done.returncode == 0, done.stderr
    offline = np.load(work / "offline.npz")
    for name in offline:
        np.testing.assert_array_equal(offline[name], expected["first" if name == "pinned" else "changed"])
    assert len(offline) == 4
    assert "you/never_loaded" in value(done.stdout, "unknown")
