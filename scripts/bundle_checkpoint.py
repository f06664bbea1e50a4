"""Turn a training run into a checkpoint to ship: half-precision weights and the lists of what it was trained on.

    python scripts/bundle_checkpoint.py runs/tiny_latent irstd_ldm/checkpoints/tiny
    python scripts/bundle_checkpoint.py runs/irstd_diff_small_second irstd_ldm/checkpoints/irstd_diff_small

A checkpoint given as both arguments is written anew with the package's present code.
"""

import argparse
import shutil
from pathlib import Path

import torch

import irstd_ldm
from irstd_ldm.pipelines.irstd_pipeline_base import IRSTDPipelineBase


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of train_latent.py or train_pixel.py")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    arguments = parser.parse_args()
    pipeline_class = getattr(irstd_ldm, IRSTDPipelineBase.load_config(arguments.run)["_class_name"])
    pipeline = pipeline_class.from_pretrained(arguments.run)
    pipeline.to(dtype=torch.float16).save_pretrained(arguments.folder)
    if arguments.run.resolve() != arguments.folder.resolve():
        for path in arguments.run.glob("*.txt"):
            shutil.copy(path, arguments.folder / path.name)


if __name__ == "__main__":
    main()
