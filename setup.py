"""irstd-ldm: infrared small target detection with diffusion models."""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
FEATURES = {
    "coco": ["pycocotools>=2.0.8"],
    "demo": ["gradio>=6"],
    "eval": ["datasets>=4", "jinja2>=3.1", "matplotlib>=3.8"],
    "export": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5", "openvino>=2025.0"],
    "geo": ["rasterio>=1.4"],
    "runtime": ["onnxruntime>=1.20"],
    "scale": ["pyarrow>=19", "ray[data]>=2.50"],
    "train": ["datasets>=4", "matplotlib>=3.8", "pyyaml", "tensorboard"],
    "video": ["av>=14", "imagecodecs>=2024.6"],
}
DOCS = ["furo", "myst-parser>=4", "sphinx>=8"]
EXTRAS = {
    **FEATURES,
    "docs": DOCS,
    "test": [
        *sorted({package for packages in FEATURES.values() for package in packages}),
        *DOCS,
        "build",
        "hypothesis",
        "moto[server]>=5",
        "mypy",
        "playwright",
        "psutil",
        "pytest",
        "pytest-xdist",
        "ruff",
        "scikit-image",
        "setuptools>=77",
    ],
}
CHECKPOINT_SUFFIXES = ("json", "onnx", "safetensors", "md", "png", "txt")
TORCH_FREE = ["pillow>=10.1", "numpy>=1.26", "scipy>=1.12", "tifffile>=2024.8", "tqdm>=4.66"]
CORE = [
    "torch>=2.6",
    "diffusers>=0.42",
    "transformers>=5",
    "accelerate>=1.0",
    "safetensors>=0.4",
    "huggingface-hub>=1.0",
    "PyWavelets>=1.6",
    *TORCH_FREE,
]
# IRSTD_LDM_DISTRIBUTION=irstd-ldm-runtime builds the same files under that name, for machines without torch.
NAME = os.environ.get("IRSTD_LDM_DISTRIBUTION", "irstd-ldm")
REQUIRES = {"irstd-ldm": CORE, "irstd-ldm-runtime": [*TORCH_FREE, *FEATURES["runtime"]]}


def version() -> str:
    """The one place of the version is `irstd_ldm/__init__.py`."""
    text = (ROOT / "irstd_ldm" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


setup(
    name=NAME,
    version=version(),
    description="Infrared small target detection with diffusion models, as a diffusers-style package",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["infrared", "small target detection", "diffusion", "latent diffusion", "segmentation", "diffusers"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=sorted(
        {*find_packages(include=["irstd_ldm", "irstd_ldm.*"]), "irstd_ldm.pipelines", "irstd_ldm.training"}
    ),
    # irstd_ldm/pipelines and irstd_ldm/training are links; where a checkout has no links the mapping still holds.
    package_dir={"irstd_ldm.pipelines": "pipelines", "irstd_ldm.training": "training"},
    package_data={
        "irstd_ldm": ["py.typed", *(f"checkpoints/**/*.{suffix}" for suffix in CHECKPOINT_SUFFIXES)],
        "irstd_ldm.app": ["viewer.*"],
        "irstd_ldm.evaluation.report": ["page.html.jinja"],
        "irstd_ldm.training": ["recipes/*.yaml"],
    },
    install_requires=REQUIRES[NAME],
    extras_require=EXTRAS if NAME == "irstd-ldm" else {name: FEATURES[name] for name in ("scale", "video")},
    entry_points={"console_scripts": ["irstd-ldm = irstd_ldm.cli.main:main"]},
)
