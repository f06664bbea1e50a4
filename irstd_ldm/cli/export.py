"""`irstd-ldm export`: a detector for onnxruntime or OpenVINO."""

import argparse

from ..data.folder import held_out_stems
from ..data.images import to_gray
from ..data.readers.frame import IMAGE_ERRORS
from ..files import is_free
from ..runtime.quantize import Calibration, evenly_spaced
from . import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, CommandError, describe
from .image_set import HF_PREFIX, ImageSet
from .model import load_pipeline, model_name


def run(args: argparse.Namespace) -> int:
    """Writes the folder, prints what it holds and returns the exit code."""
    if args.int8 != (args.calibration is not None):
        raise CommandError("--int8 and --calibration ROOT go together", EXIT_USAGE)
    folder = args.output.absolute()
    if not is_free(folder):
        raise CommandError(f"--output {args.output}: exists and is not an empty folder", EXIT_USAGE)
    calibration = None if args.calibration is None else _calibration(args)
    pipeline = load_pipeline(args)
    from ..runtime.export import export_detector  # torch's exporters take seconds to import

    try:
        description = export_detector(
            pipeline,
            folder,
            args.format,
            model_name(args),
            num_inference_steps=args.num_inference_steps,
            calibration=calibration,
        )
    except (TypeError, ValueError) as error:
        raise CommandError(f"--model {model_name(args)}: {error}", EXIT_USAGE) from error
    except (ModuleNotFoundError, OSError) as error:
        raise CommandError(str(describe(args.output, error)), EXIT_FAILED) from error
    precision = "float32" if description.quantization is None else "int8"
    size_mib = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    steps = description.num_inference_steps
    print(f"{args.output}: {args.format}, {precision}, {steps} step{'s' * (steps != 1)}, {size_mib:.1f} MiB")
    return EXIT_DONE


def _calibration(args: argparse.Namespace) -> Calibration:
    """Evenly spaced images of the training list; no test image, whichever list it is on."""
    try:
        if str(args.calibration).startswith(HF_PREFIX):
            raise ValueError(f"--calibration must be a folder with its lists of test images, got {args.calibration}")
        images = ImageSet(args.calibration, split="train")
        held_out = held_out_stems(args.calibration)
        stems = [stem for stem in images.stems if stem not in held_out]
        if not stems:
            raise ValueError(f"every image of {images.description} under '{args.calibration}' is on a test list")
        grays = [to_gray(images.files[stem]) for stem in evenly_spaced(stems)]
    except IMAGE_ERRORS as error:
        raise CommandError(str(describe(args.calibration, error)), EXIT_USAGE) from error
    return Calibration(data=f"{args.calibration.resolve().name}, {images.description}", images=grays)
