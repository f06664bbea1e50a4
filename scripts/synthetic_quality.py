"""How good the images of `irstd-ldm synthesize` are: spectra, patches, targets before and after, memorised images.

    python scripts/synthetic_quality.py --synthetic more/generated more/planted --data NUAA-SIRST --sheet sheet.png

All is measured against held-out real images: those of --held-out, by default those of the data set's training list
that neither the generator was trained on nor an image was made of. A test list's images and those are refused. The row
`sources` measures the sources the same way: synthetic images are as good as real ones where they are no farther from
the held-out ones than those. What a generated set is outside of BOUNDS in is named in the last column. With
--backgrounds, `frames` does so for what was planted on. FID and KID need the weights of a network, a download, and are
not used.

- spectrum: root mean square difference in dB of the radially averaged log power spectra (Hann window, random crops);
  fine: mean signed difference at 0.25 cycles per px and more, below 0 too smooth.
- patches: Frechet distance of Gaussians fitted to mean, log deviation, skewness, log gradient and log fine DCT energy
  of 8x8 patches, in standard deviations of the held-out images' patches.
- ring: what pasting leaves around targets, 1 to 8 px away: the largest mean difference to the sources' profile, in
  gray levels, and the mean ratio of the textures there; both profiles count from the surroundings 9 to 12 px away.
- grid: autocorrelation of neighbours' differences at 4 px, less that at 3 and 5, less that of the held-out images.
- contrast: mean of a target - mean of its ring, synthetic / source, of the targets that the synthetic mask still
  holds; a lost one has 0 or less. Unlabelled ones have left the mask. Planted targets have no source, only an SCR.
- r: correlation of thumbnails with the training images, which are those that `synthesize` was given. The number in
  brackets is that of the image's source with the same training image: memorisation shows as a much lower one.
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
from markdown_tables import markdown, publish

from irstd_ldm.bundled import resolve_model
from irstd_ldm.cli.synthesize import PROVENANCE, SETTINGS
from irstd_ldm.data.folder import IRSTDFolder, Sample, held_out_stems, read_backgrounds, read_stem_list
from irstd_ldm.pipelines.pipeline_gaussian_agnostic import unit_range
from irstd_ldm.targets import label_components, ring_window, signal_to_clutter_ratios

STRIDE_PX = 4  # pixels per latent element of the small generator
# Largest absolute value of a generated set's column; `patches` counts in those of the sources, contrast from 1.
BOUNDS = {"fine_db": 1.0, "patches": 2.0, "ring_level": 1.0, "ring_texture": 0.1, "grid": 0.02, "contrast_median": 0.1}
SCR_QUANTILES = (0.1, 0.5, 0.9)
SHEET = ("source", "synthetic", "synthetic - source", "a target in the source", "in the synthetic image")
CLOSE_UP_PX, BOX_MARGIN_PX = 18, 3  # pixels of an image around a target on the sheet
# Caption, source in gray levels (H, W) where it is at hand, synthetic image alike, mask (H, W) bool of the latter.
Example = tuple[str, np.ndarray | None, np.ndarray, np.ndarray]
COLUMNS = (  # title, key of a row, format
    ("N", "images", "{}"),
    ("spectrum, dB", "spectrum_db", "{:.2f}"),
    ("fine, dB", "fine_db", "{:+.2f}"),
    ("patches", "patches", "{:.2f}"),
    ("ring, levels", "ring_level", "{:.2f}"),
    ("ring, texture", "ring_texture", "{:+.1%}"),
    ("grid", "grid", "{:+.3f}"),
    ("targets", "targets", "{}"),
    ("SCR 10/50/90 %", "scr_quantiles", "{0[0]:.1f} / {0[1]:.1f} / {0[2]:.1f}"),
    ("contrast, median", "contrast_median", "{:.2f}"),
    ("below half", "below_half", "{:.1%}"),
    ("lost", "lost", "{:.1%}"),
    ("unlabelled", "unlabelled", "{}"),
    ("nearest is another", "nearest_other_share", "{:.1%}"),
    ("r, own source", "median_own", "{:.3f}"),
    ("r, highest other", "highest_other", "{:.3f}"),
    ("outside of bounds", "outside", "{}"),
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
    """The images of one row; each real image counts as a synthetic one of itself."""

    name: str
    kind: str
    samples: list[Sample]
    images: list[np.ndarray]  # the samples' images, in gray levels
    sources: list[str]  # stem of each image's source
    training: list[str]  # stems that the images, or their generator, were made of


def real_set(name: str, samples: dict[str, Sample], training: Iterable[str]) -> MeasuredSet:
    """Real images by stem."""
    images = [real_levels(sample.image) for sample in samples.values()]
    return MeasuredSet(name, "real", [*samples.values()], images, [*samples], [*training])


def training_stems(settings: dict[str, Any], data: Path, drawn: Sequence[str]) -> list[str]:
    """The stems that the generator was trained on, where its folder lists them, and those that images were made of."""
    for name in (f"train_{data.resolve().name}.txt", "train.txt") if settings["mode"] == "generated" else ():
        path = Path(resolve_model(settings["model"]), name)
        if path.is_file():
            return [*dict.fromkeys([*read_stem_list(path), *drawn])]
    return settings["sources"]


def synthetic_set(root: Path, data: Path) -> MeasuredSet:
    """The synthetic images of a folder that `synthesize` wrote, without the originals that it copied; at least one."""
    with (root / PROVENANCE).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] != "original"]
    if not rows:
        raise ValueError(f"`synthetic` must be folders with synthetic images, '{root}' lists none")
    kind = rows[0]["kind"]
    samples = [*samples_of(root, [row["name"] for row in rows]).values()]
    images = [synthetic_levels(sample.image) for sample in samples]
    drawn = [row["source"] for row in rows]
    settings = json.loads((root / SETTINGS).read_text(encoding="utf-8"))
    given = training_stems(settings, data, drawn) if kind != "planted" else []
    return MeasuredSet(root.name, kind, samples, images, drawn, given)


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
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Frequencies (F,), spectrum (F,), patch features (N, D), grid; in images of one name at the same positions."""
    crops = quality.random_crops(images, names, arguments.crop_px, arguments.crops, arguments.seed)
    patches = quality.random_crops(images, names, quality.PATCH_PX, arguments.patches, arguments.seed)
    return *quality.radial_spectrum(crops), quality.patch_features(patches), quality.grid_correlation(crops, STRIDE_PX)


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


def rings(made: MeasuredSet, sources: dict[str, Sample]) -> dict[str, Any]:
    """What is around the targets that was not around the sources', as far as 8 px."""
    differences, ratios = [], []
    for image, sample, source in zip(made.images, made.samples, made.sources, strict=True):
        level, texture = quality.surroundings_profiles(image, sample.mask)
        real_level, real_texture = quality.surroundings_profiles(real_levels(sources[source].image), sample.mask)
        differences.append(level - real_level)
        ratios.append(texture / real_texture)
    return {
        "ring_level": float(np.abs(np.nanmean(np.concatenate(differences), axis=0)).max()),
        "ring_texture": float(np.nanmedian(np.concatenate(ratios)) - 1),
    }


def outside(row: dict[str, Any], sources: dict[str, Any]) -> str:
    """Titles of the columns in which a generated set's row is outside of its bounds, given that of its sources."""
    values = {name: row[name] for name in BOUNDS}
    values["patches"] /= sources["patches"]
    values["contrast_median"] -= 1
    found = [title for title, key, _ in COLUMNS if key in BOUNDS and not abs(values[key]) <= BOUNDS[key]]
    return ", ".join(found) or "nothing"


def resemblance(made: MeasuredSet, real: dict[str, Sample]) -> dict[str, Any]:
    """The nearest training images, or nothing where there are not two of them."""
    if len(made.training) < 2:
        return {}
    references = quality.thumbnails([real_levels(real[stem].image) for stem in made.training])
    own = [made.training.index(source) for source in made.sources]
    found = quality.nearest_training_images(quality.thumbnails(made.images), references, own)
    return found._asdict() | {"pair": (made.samples[found.pair[0]].stem, made.training[found.pair[1]])}


def measure(
    made: MeasuredSet,
    real: dict[str, Sample],
    held_out: tuple[np.ndarray, np.ndarray, np.ndarray, float],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """One row; `held_out` is what `describe` makes of the held-out real images."""
    frequency, reference_spectrum, reference_features, reference_grid = held_out
    _, spectrum, features, grid = describe(made.images, made.sources, arguments)
    row: dict[str, Any] = {"name": made.name, "kind": made.kind, "images": len(made.images)}
    row["spectrum_db"] = quality.spectrum_distance(spectrum, reference_spectrum)
    row["fine_db"] = quality.high_frequency_difference(frequency, spectrum, reference_spectrum)
    row["patches"] = quality.frechet_distance(features, reference_features)
    row["grid"] = grid - reference_grid
    row |= scr_of(made) | resemblance(made, real)
    return row | fidelity(made, real) | rings(made, real) if made.kind not in ("real", "planted") else row


def cells(row: dict[str, Any]) -> list[str]:
    """One line of the table; a real image is its own source."""
    is_real = row["kind"] == "real"
    hidden = ("nearest_other_share", "median_own") if is_real else ()
    line = [f"{row['name']} ({row['kind']})"]
    for _, key, form in COLUMNS:
        value = None if key in hidden else row.get(key)
        line.append("-" if value is None else form.format(value).replace("%", " %"))
    if not is_real and "highest_other" in row:
        line[-2] += f" ({row['highest_other_of_source']:.3f})"
    return line


def examples(made: MeasuredSet, sources: dict[str, np.ndarray], arguments: argparse.Namespace) -> list[Example]:
    """A few images of one folder, drawn by the seed, with their sources, raw images (H, W), where these are known."""
    rows = []
    for index in sorted(np.random.default_rng(arguments.seed).permutation(len(made.samples))[: arguments.examples]):
        sample, source = made.samples[index], sources.get(made.sources[index])
        levels = None if source is None else real_levels(source)
        rows.append((f"{made.kind}: {sample.stem}", levels, made.images[index], sample.mask))
    return rows


def draw_sheet(rows: Sequence[Example], path: Path) -> None:
    """Rows of source, synthetic, difference, and the largest target close up in both, stretched alike; with boxes."""
    from matplotlib.figure import Figure  # matplotlib is an extra
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(16, 3.6 * len(rows)), layout="constrained")
    for axes, (caption, source, synthetic, mask) in zip(
        figure.subplots(len(rows), len(SHEET), squeeze=False), rows, strict=True
    ):
        targets = sorted(label_components(mask)[1], key=lambda target: -target.area_px)
        difference = None if source is None else synthetic - source
        panels = [(source, 0.0, 255.0), (synthetic, 0.0, 255.0), (difference, -127.5, 127.5)]
        for target in targets[:1]:
            window = ring_window(target.left, target.top, target.width, target.height, CLOSE_UP_PX)
            close_ups = [image[window] for image in (source, synthetic) if image is not None]
            panels += [(image, np.min(close_ups), np.max(close_ups)) for image in (source, synthetic)]
        for column, (axis, title) in enumerate(zip(axes, SHEET, strict=True)):
            axis.set_axis_off()
            axis.set_title(title if column else f"{caption}\n{title}")
            levels, low, high = panels[column] if column < len(panels) else (None, 0.0, 0.0)
            if levels is None:
                continue
            axis.imshow(levels, "gray", vmin=low, vmax=high)
            if column > 2:
                rows_shown, columns_shown = window
                axis.set(xlim=(columns_shown.start, columns_shown.stop), ylim=(rows_shown.stop, rows_shown.start))
            for target in targets if column != 2 else ():
                corner = (target.left - 0.5 - BOX_MARGIN_PX, target.top - 0.5 - BOX_MARGIN_PX)
                size = (target.width + 2 * BOX_MARGIN_PX, target.height + 2 * BOX_MARGIN_PX)
                axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor="red"))
    figure.savefig(path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", type=Path, nargs="+", required=True, help="folders that `synthesize` wrote")
    parser.add_argument("--data", type=Path, required=True, help="the real data set, in the field's layout")
    parser.add_argument(
        "--held-out", nargs="+", default=[], metavar="val|LISTFILE", help="real images to compare with"
    )
    parser.add_argument("--backgrounds", type=Path, help="frames that planted images were made of")
    parser.add_argument("--crop-px", type=int, default=96, help="crops of the spectra; 96 fits all of NUAA-SIRST")
    parser.add_argument("--crops", type=int, default=4, help="crops per image for the spectra")
    parser.add_argument("--patches", type=int, default=64, help="patches per image")
    parser.add_argument("--examples", type=int, default=3, help="per folder, on the sheet")
    parser.add_argument("--seed", type=int, default=0, help="seed of crops, patches and examples")
    parser.add_argument("--document", type=Path, help="a Markdown file with marks, whose table is replaced")
    parser.add_argument("--sheet", type=Path, help="a PNG file for examples to look at")
    parser.add_argument("--output", type=Path, help="a JSON file for the rows")
    arguments = parser.parse_args(argv)
    try:
        sets = [synthetic_set(root, arguments.data) for root in arguments.synthetic]
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
    for row in rows:
        if row["kind"] == "generated":
            row["outside"] = outside(row, rows[0])
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
        draw_sheet([*chain(*rows_shown)], arguments.sheet)


if __name__ == "__main__":
    main()
