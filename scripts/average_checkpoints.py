"""The weighted mean of two checkpoints' weights, one of which was trained from the other.

    python scripts/average_checkpoints.py irstd_ldm/checkpoints/tiny runs/fewer --weight 0.5 --output runs/mean

Between a detector and its continuation on other data lies one that is often better than both on either (Wortsman et
al., *Robust fine-tuning of zero-shot models*, CVPR 2022). `--weight` is that of the second; choose it on validation
images. The lists of what was trained on and held out are those of the second, counts of batches too; the mean is not
calibrated.
"""

import argparse
import shutil
from pathlib import Path

import torch

import irstd_ldm
from irstd_ldm.pipelines.detection_pipeline import IRSTDDetectionPipeline
from irstd_ldm.pipelines.irstd_pipeline_base import IRSTDPipelineBase


def average(first: IRSTDDetectionPipeline, second: IRSTDDetectionPipeline, weight: float) -> IRSTDDetectionPipeline:
    """`second` with its weights moved to `weight` x its own + (1 - `weight`) x those of `first`.

    Raises:
        ValueError: The networks of one have weights of other names or shapes than those of the other.
    """
    for name, module in second.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        ours, theirs = module.state_dict(), getattr(first, name).state_dict()
        if {key: value.shape for key, value in ours.items()} != {key: value.shape for key, value in theirs.items()}:
            raise ValueError(f"`first` and `second` must hold the same networks, `{name}` differs")
        module.load_state_dict(
            {
                key: torch.lerp(theirs[key], value, weight) if value.is_floating_point() else value
                for key, value in ours.items()
            }
        )
    second.register_to_config(calibration=None)
    return second


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="folder of the detector that was trained on")
    parser.add_argument("second", type=Path, help="folder of its continuation")
    parser.add_argument("--weight", type=float, default=0.5, help="of the second, in [0, 1]; default: 0.5")
    parser.add_argument("--output", type=Path, required=True, help="folder of the mean")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.weight <= 1:
        parser.error(f"--weight must lie in [0, 1], got {arguments.weight}")
    first, second = (
        getattr(irstd_ldm, IRSTDPipelineBase.load_config(folder)["_class_name"]).from_pretrained(folder)
        for folder in (arguments.first, arguments.second)
    )
    average(first, second, arguments.weight).save_pretrained(arguments.output)
    for path in arguments.second.glob("*.txt"):
        shutil.copy(path, arguments.output / path.name)


if __name__ == "__main__":
    main()
