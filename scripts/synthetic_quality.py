"""How good the images of `irstd-ldm synthesize` are: spectra, patches, targets before and after, memorised images.

    python scripts/synthetic_quality.py --synthetic more/generated more/planted --data NUAA-SIRST --sheet sheet.png

All is measured against held-out real images: those of --held-out, by default those of the data set's training list
that no `synthesize` was given. A test list's images and what `synthesize` was given are refused. The row `sources`
measures the sources the same way: synthetic images are as good as real ones where they are no farther from the
held-out ones than those. With --backgrounds, `frames` does so for what was planted on. FID and KID need the weights of
a network, a download, and are not used.

- spectrum: root mean square difference in dB of the radially averaged log power spectra (Hann window, random crops);
  fine: mean signed difference at 0.25 cycles per px and more, below 0 too smooth.
- patches: Frechet distance of Gaussians fitted to mean, log deviation, skewness, log gradient and log fine DCT energy
  of 8x8 patches, in standard deviations of the held-out images' patches.
- contrast: mean of a target - mean of its ring, synthetic / source; lost: 0 or less. Of the targets that the synthetic
  mask still holds; unlabelled are those that it does not. Planted targets have no source: only their SCR is given.
- r: correlation of thumbnails with the training images, which are those that `synthesize` was given. In brackets what
  the source of that image has with the same training image: memorisation shows as the first well above the second.
"""

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import image_statistics as quality
import numpy as np
from contact_sheet import Example, contact_sheet
from markdown_tables import markdown, publish

from irstd_ldm.cli.synthesize import PROVENANCE, SETTINGS
from irstd_ldm.data.folder import IRSTDFolder, Sample, held_out_stems, read_backgrounds, read_stem_list
from irstd_ldm.pipelines.pipeline_gaussian_agnostic import unit_range
from irstd_ldm.targets import label_components, signal_to_clutter_ratios

SCR_QUANTILES = (0.1, 0.5, 0.9)
COLUMNS = (  # title, key of a row, format
    ("N", "images", "{}"),
    ("spectrum, dB", "spectrum_db", "{:.2f}"),
    ("fine, dB", "fine_db", "{:+.2f}"),
    ("patches", "patches", "{:.2f}"),
    ("targets", "targets", "{}"),
    ("SCR 10/50/90 %", "scr_quantiles", "{0[0]:.1f} / {0[1]:.1f} / {0[2]:.1f}"),
    ("contrast, median", "contrast_median", "{:.2f}"),
    ("below half", "below_half", "{:.1%}"),
    ("lost", "lost", "{:.1%}"),
    ("unlabelled", "unlabelled", "{}"),
    ("nearest is another", "nearest_other_share", "{:.1%}"),
    ("r, own source", "median_own", "{:.3f}"),
    ("r, highest other", "highest_other", "{:.3f}"),
)


def real_levels(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 gray levels, 0 to 255, of a real image on the scale that `synthesize` writes."""
    return image.astype(np.float32) if image.dtype == np.uint8 else 255 * unit_range(image)


def synthetic_levels(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 gray levels, 0 to 255, of an image that `synthesize` wrote as uint8 or uint16."""
    return image.astype(np.float32) * np.float32(255 / np.iinfo(image.dtype).max)


def samples_of(root: Path, stems: Sequence[str]) -> dict[str, Sample]:
    """Images and masks by stem."""
    folder = IRSTDFolder(root)
    unknown = sorted(set(stems) - set(folder.stems))
    if unknown:
        raise ValueError(f"`stems` must be of images in '{root}', got {unknown[0]!r}")
    return {stem: folder[folder.stems.index(stem)] for stem in stems}


@dataclass
class MeasuredSet:
    """Images that one row is about; real ones are as if each were a synthetic one of itself."""

    name: str
    kind: str
    samples: list[Sample]
    images: list[np.ndarray]  # the samples' images, in gray levels
    sources: list[str]  # one per image
    training: list[str]  # that the images, or their generator, were made of


def real_set(name: str, samples: dict[str, Sample], training: Iterable[str]) -> MeasuredSet:
    """Real images by stem."""
    images = [real_levels(sample.image) for sample in samples.values()]
    return MeasuredSet(name, "real", [*samples.values()], images, [*samples], [*training])


def synthetic_set(root: Path) -> MeasuredSet:
    """The synthetic images of a folder that `synthesize` wrote, without the originals that it copied; at least one."""
    with (root / PROVENANCE).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] != "original"]
    if not rows:
        raise ValueError(f"`synthetic` must be folders with synthetic images, '{root}' lists none")
    kind = rows[0]["kind"]
    samples = [*samples_of(root, [row["name"] for row in rows]).values()]
    images = [synthetic_levels(sample.image) for sample in samples]
    given = json.loads((root / SETTINGS).read_text(encoding="utf-8"))["sources"] if kind != "planted" else []
    return MeasuredSet(root.name, kind, samples, images, [row["source"] for row in rows], given)


def held_out_list(data: Path, lists: Sequence[str], sources: set[str]) -> list[str]:
    """The stems of the real images to compare with: those of `lists`, else of the training list without `sources`."""
    tested = held_out_stems(data)
    if lists:
        read = [IRSTDFolder(data, "val").stems if name == "val" else read_stem_list(name) for name in lists]
        stems = list(dict.fromkeys(stem for one in read for stem in one))
    else:
        stems = [stem for stem in IRSTDFolder(data, "train").stems if stem not in sources]
    for name, given, refused, what in (
        ("held_out", stems, tested, "on a test list"),
        ("held_out", stems, sources, "a source of the synthetic ones"),
        ("synthetic", sources, tested, "on a test list"),
    ):
        found = sorted(refused.intersection(given))
        if found:
            raise ValueError(f"`{name}` must hold no image that is {what}, got {len(found)}, such as {found[0]!r}")
    if not stems:
        raise ValueError("`held_out` must name real images: all of the training list are sources")
    return stems


def describe(
    images: Sequence[np.ndarray], names: Sequence[str], arguments: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies (F,), spectrum (F,) and patch features (N, D), at the same positions in all images of one name."""
    crops = quality.random_crops(images, names, arguments.crop_px, arguments.crops, arguments.seed)
    patches = quality.random_crops(images, names, quality.PATCH_PX, arguments.patches, arguments.seed)
    return *quality.radial_spectrum(crops), quality.patch_features(patches)


def scr_of(made: MeasuredSet) -> dict[str, Any]:
    """Quantiles of the SCR of all targets; a target in an even or empty ring has none and is counted."""
    ratios = []
    for image, sample in zip(made.images, made.samples, strict=True):
        ratios += signal_to_clutter_ratios(image, *label_components(sample.mask)).tolist()
    defined = [ratio for ratio in ratios if np.isfinite(ratio)]
    quantiles = np.quantile(defined, SCR_QUANTILES).tolist() if defined else None
    return {"targets": len(ratios), "scr_undefined": len(ratios) - len(defined), "scr_quantiles": quantiles}


def fidelity(made: MeasuredSet, sources: dict[str, Sample]) -> dict[str, Any]:
    """The outcome of the sources' targets."""
    found: list[quality.TargetContrast] = []
    for image, sample, source in zip(made.images, made.samples, made.sources, strict=True):
        real = sources[source]
        found += quality.compare_targets(real_levels(real.image), real.mask, image, sample.mask)
    ratios = np.array([target.ratio for target in found if target.labelled and np.isfinite(target.ratio)])
    unlabelled = {"unlabelled": sum(not target.labelled for target in found)}
    if not len(ratios):
        return unlabelled | dict.fromkeys(("contrast_median", "below_half", "lost"))
    shares = {"below_half": float((ratios < 0.5).mean()), "lost": float((ratios <= 0).mean())}
    return unlabelled | {"contrast_median": float(np.median(ratios)), **shares}


def resemblance(made: MeasuredSet, real: dict[str, Sample]) -> dict[str, Any]:
    """The nearest training images, or nothing where there are not two of them."""
    if len(made.training) < 2:
        return {}
    references = quality.thumbnails([real_levels(real[stem].image) for stem in made.training])
    own = [made.training.index(source) for source in made.sources]
    found = quality.nearest_training_images(quality.thumbnails(made.images), references, own)
    return found._asdict() | {"pair": (made.samples[found.pair[0]].stem, made.training[found.pair[1]])}


def measure(
    made: MeasuredSet, real: dict[str, Sample], held_out: Sequence[np.ndarray], arguments: argparse.Namespace
) -> dict[str, Any]:
    """One row; `held_out` is what `describe` makes of the held-out real images."""
    frequency, reference_spectrum, reference_features = held_out
    _, spectrum, features = describe(made.images, made.sources, arguments)
    row: dict[str, Any] = {"name": made.name, "kind": made.kind, "images": len(made.images)}
    row["spectrum_db"] = quality.spectrum_distance(spectrum, reference_spectrum)
    row["fine_db"] = quality.high_frequency_difference(frequency, spectrum, reference_spectrum)
    row["patches"] = quality.frechet_distance(features, reference_features)
    row |= scr_of(made) | resemblance(made, real)
    return row | fidelity(made, real) if made.kind not in ("real", "planted") else row


def cells(row: dict[str, Any]) -> list[str]:
    """One line of the table; a real image is its own source."""
    is_real = row["kind"] == "real"
    hidden = ("nearest_other_share", "median_own") if is_real else ()
    line = [f"{row['name']} ({row['kind']})"]
    for _, key, form in COLUMNS:
        value = None if key in hidden else row.get(key)
        line.append("-" if value is None else form.format(value).replace("%", " %"))
    if not is_real and "highest_other" in row:
        line[-1] += f" ({row['highest_other_of_source']:.3f})"
    return line


def examples(made: MeasuredSet, sources: dict[str, np.ndarray], arguments: argparse.Namespace) -> list[Example]:
    """A few images of one folder, drawn by the seed, with their sources, raw images (H, W), where these are known."""
    rows = []
    for index in sorted(np.random.default_rng(arguments.seed).permutation(len(made.samples))[: arguments.examples]):
        sample, source = made.samples[index], sources.get(made.sources[index])
        levels = None if source is None else real_levels(source)
        rows.append(Example(f"{made.kind}: {sample.stem}", levels, made.images[index], sample.mask))
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", type=Path, nargs="+", required=True, help="folders that `synthesize` wrote")
    parser.add_argument("--data", type=Path, required=True, help="the real data set, in the field's layout")
    parser.add_argument(
        "--held-out", nargs="+", default=[], metavar="val|LISTFILE", help="real images to compare with"
    )
    parser.add_argument("--backgrounds", type=Path, help="frames that planted images were made of")
    parser.add_argument("--crop-px", type=int, default=96, help="of the spectra; the smallest image of NUAA-SIRST")
    parser.add_argument("--crops", type=int, default=4, help="per image, of the spectra")
    parser.add_argument("--patches", type=int, default=64, help="per image")
    parser.add_argument("--examples", type=int, default=3, help="per folder, on the sheet")
    parser.add_argument("--seed", type=int, default=0, help="of crops, patches and examples")
    parser.add_argument("--document", type=Path, help="a Markdown file with marks, whose table is replaced")
    parser.add_argument("--sheet", type=Path, help="a PNG file for examples to look at")
    parser.add_argument("--output", type=Path, help="a JSON file for the rows")
    arguments = parser.parse_args(argv)
    try:
        sets = [synthetic_set(root) for root in arguments.synthetic]
        given = dict.fromkeys(stem for made in sets for stem in made.training)
        held_out = held_out_list(arguments.data, arguments.held_out, set(given))
        real = samples_of(arguments.data, list(given))
        held_out_samples = samples_of(arguments.data, held_out)
        frames = {} if arguments.backgrounds is None else read_backgrounds(arguments.backgrounds)
    except (OSError, ValueError) as error:
        parser.error(str(error))

    reference = describe([real_levels(one.image) for one in held_out_samples.values()], held_out, arguments)
    drawn = {source for made in sets if made.training for source in made.sources}
    planted_on = sorted({source for made in sets if not made.training for source in made.sources} & set(frames))
    baselines = []
    if drawn:
        baselines.append(real_set("sources", {stem: real[stem] for stem in real if stem in drawn}, real))
    if planted_on:
        empty = {stem: Sample(stem, frames[stem], np.zeros(frames[stem].shape, bool)) for stem in planted_on}
        baselines.append(real_set("frames", empty, ()))
    rows = [measure(made, real, reference, arguments) for made in (*baselines, *sets)]
    caption = (
        f"{arguments.data.name}, against {len(held_out)} held-out images, {arguments.crops} crops of "
        f"{arguments.crop_px} px and {arguments.patches} patches per image, seed {arguments.seed}:"
    )
    titles = ["images", *(title for title, _, _ in COLUMNS)]
    text = f"{caption}\n\n{markdown(titles, map(cells, rows))}"
    publish("synthetic_quality.py", text, arguments.document, rows, arguments.output)
    if arguments.sheet is not None:
        images = {stem: sample.image for stem, sample in real.items()}
        rows_shown = [examples(made, images if made.training else frames, arguments) for made in sets]
        contact_sheet([*chain(*rows_shown)]).save(arguments.sheet)


if __name__ == "__main__":
    main()
