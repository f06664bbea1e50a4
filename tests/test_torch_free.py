"""What runs without torch: a detector of another runtime must not wait for it."""

import pkgutil
import subprocess
import sys

import pytest

import irstd_ldm.data
import irstd_ldm.evaluation

MADE_OF_TENSORS = {"irstd_ldm.data.crops", "irstd_ldm.data.ggs"}  # they feed the trainers
GROUND_FLOOR = (
    "files",
    "targets",
    "tiling",
    "tracking",
    "hub.upload",
    "runtime.detector",
    "runtime.quantize",
    "stream",
    "archive",
)
CLI_MODULES = ("detect", "image_set", "main", "model", "outputs")


def modules_of(package) -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    return [name for name in names if name not in MADE_OF_TENSORS]


@pytest.mark.parametrize(
    "names",
    [
        modules_of(irstd_ldm.data),
        modules_of(irstd_ldm.evaluation),
        [f"irstd_ldm.{name}" for name in GROUND_FLOOR],
        [f"irstd_ldm.cli.{name}" for name in CLI_MODULES],
    ],
    ids=["data", "evaluation", "ground floor", "cli"],
)
def test_torch_stays_out(names):
    code = (
        f"import importlib, sys\nfor name in {names!r}:\n    importlib.import_module(name)\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_a_tensor_is_read_where_torch_is_there_and_named_where_it_is_not():
    code = (
        "import sys\nfrom irstd_ldm.data.images import to_gray\n"
        "try:\n    to_gray({})\nexcept TypeError as error:\n    print(error)\n"
        "print('torch' in sys.modules)\n"
        "import torch\nprint(to_gray(torch.ones(1, 2, 3)).shape)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    told = "`image` must be a path, a PIL image, an array or a tensor, got dict"
    assert result.stdout.splitlines() == [told, "False", "(2, 3)"]
