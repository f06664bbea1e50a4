"""Training and validation lists of a data set's images, shuffled, images of one scene on one side.

    python scripts/make_file_list.py ROOT --output LISTS

Writes LISTS/train.list and LISTS/val.list, a stem a line, for the trainers' `--train_list`. Images on a test list of
ROOT or on a list named by --exclude are left out.
"""

import argparse
from pathlib import Path

import numpy as np

from irstd_ldm.data.folder import files_by_stem, held_out_stems, read_stem_list, write_stem_list
from irstd_ldm.data.images import to_gray
from irstd_ldm.data.splits import split_by_scene


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="ROOT", help="the images are ROOT/images/*")
    parser.add_argument("--output", type=Path, required=True, metavar="LISTS", help="folder of the two lists")
    parser.add_argument("--val-fraction", type=float, default=0.1, help="share of val.list; default: 0.1")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split and of the order; default: 0")
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], metavar="FILE", help="lists of stems to leave")
    arguments = parser.parse_args(argv)
    excluded = held_out_stems(arguments.root).union(*map(read_stem_list, arguments.exclude))
    files = files_by_stem(arguments.root / "images")
    stems = [stem for stem in files if stem not in excluded]
    if len(stems) < 2:
        parser.error(f"{arguments.root}/images has {len(stems)} images that are on no excluded list; 2 are needed")
    train, val = split_by_scene(
        stems, [to_gray(files[stem]) for stem in stems], arguments.val_fraction, arguments.seed
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(arguments.seed)
    for name, part in (("train.list", train), ("val.list", val)):
        write_stem_list(arguments.output / name, rng.permutation(part).tolist())
        print(f"{arguments.output / name}: {len(part)} images")
    print(f"left out: {len(files) - len(stems)} images on test lists and excluded lists")


if __name__ == "__main__":
    main()
