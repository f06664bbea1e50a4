"""The worth of a training's settings: arms that differ in them alone, trained and scored alike, seed by seed.

    OMP_WAIT_POLICY=PASSIVE python scripts/train_arms.py latent --output runs/arms --seeds 0 1 2 --processes 2 \
        --data DATA/NUAA-SIRST DATA/IRSTD-1k --arm "all" --arm "no FAE: --no-use_fae" \
        -- --config lgldnet_small_latent --stage 1 --max_train_steps 1000 --mask_vae runs/lgldnet_small_mask_vae \
        --train_data_dir DATA/NUAA-SIRST DATA/IRSTD-1k

What stands after -- is given to `irstd-ldm train` in every arm, what stands after an arm's name to this arm. The
first arm is what the others are compared with, on the validation images of the runs or on a split that no arm was
trained on. A run that is finished is not made again, an interrupted one goes on; the output of each stands beside its
folder.
"""

import argparse
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from markdown_tables import (
    SEED_COLUMNS,
    count_images,
    kept_counts,
    markdown,
    pool,
    publish,
    samples_of_split,
    seed_row,
)

from irstd_ldm.evaluation.counts import ImageCounts
from irstd_ldm.pipelines.detection import detector_class


def train(folder: Path, system: str, settings: list[str]) -> Path:
    """Train in a process of its own, and return the folder of the model: that of the stage, if the settings name one.

    Raises:
        RuntimeError: The training failed; the message says where its output is.
    """
    log = folder.with_name(f"{folder.name}.log")
    command = [sys.executable, "-m", "irstd_ldm.cli", "train", system, *settings, "--output_dir", str(folder)]
    with log.open("w", encoding="utf-8") as output:
        if subprocess.run(command, stdout=output, stderr=output).returncode:
            raise RuntimeError(f"a training failed; its output is in {log}")
    return next(folder.glob("stage-*"), folder)


def score(model: Path, arguments: argparse.Namespace) -> list[ImageCounts]:
    """Counts per image of all data sets; kept beside the model."""
    steps = arguments.num_inference_steps

    def count() -> list[ImageCounts]:
        pipe = detector_class(str(model)).from_pretrained(model)
        samples = [one for root in arguments.data for one in samples_of_split(model, root, arguments.split)]
        return count_images(pipe, samples, model.name, **({} if steps is None else {"num_inference_steps": steps}))

    names = "-".join(Path(root).name for root in arguments.data)
    return kept_counts(model / f"counts-{names}-{arguments.split}-{steps}.json", count)


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=("latent", "pixel"), help="the trainer, as `irstd-ldm train` names it")
    parser.add_argument("--arm", action="append", required=True, metavar="NAME: SETTINGS", help="once for each")
    parser.add_argument("--data", nargs="+", required=True, help="data sets in the field's layout, scored together")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--num-inference-steps", type=int, help="default: the model's own")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs, ARM-SEED")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time, of one thread each if several")
    parser.add_argument("--document", type=Path, help="Markdown file whose table is replaced")
    arguments = parser.parse_args(argv[:end])

    arms = {name.strip(): shlex.split(settings) for name, _, settings in (arm.partition(":") for arm in arguments.arm)}
    common = argv[end + 1 :] + (["--num_cpu_threads", "1"] if arguments.processes > 1 else [])
    arguments.output.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(arguments.processes) as pool_of_threads:
        runs = {
            (name, seed): pool_of_threads.submit(
                train,
                arguments.output / f"{name.replace(' ', '_')}-{seed}",
                arguments.system,
                [*common, *settings, "--seed", str(seed)],
            )
            for seed in arguments.seeds
            for name, settings in arms.items()
        }
        models = {key: run.result() for key, run in runs.items()}
    counts = {name: [score(models[name, seed], arguments) for seed in arguments.seeds] for name in arms}
    first = pool(next(iter(counts.values())))
    rows = [[name, *seed_row(of_arm, first)] for name, of_arm in counts.items()]
    publish("train_arms.py", markdown(("arm", *SEED_COLUMNS), rows), arguments.document)


if __name__ == "__main__":
    main()
