"""The worth of the predicted posterior: the detector scored with its posterior exchanged.

    python scripts/ablate.py --data DATA/NUAA-SIRST DATA/IRSTD-1k

Rows: the predicted posterior; replaced by zeros, by another image's and by the true mask's. The images are those of
the checkpoint's validation list, which it never saw.
"""

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from markdown_tables import QUALITY, markdown, publish, quality, samples_of_split, scores

from irstd_ldm import IRSTDLatentPipeline, bundled_checkpoint
from irstd_ldm.data.folder import Sample
from irstd_ldm.evaluation.counts import ImageCounts, count_image
from irstd_ldm.tiling import pad_image, tile_windows

Exchange = Callable[[int, int, torch.Tensor], torch.Tensor]


def score(pipe: IRSTDLatentPipeline, samples: list[Sample], exchange: Exchange | None = None) -> list[ImageCounts]:
    """Counts per image; `exchange` maps (index of the image, of the tile, predicted variables) to those decoded."""
    counts = []
    for index, sample in enumerate(samples):
        tile = itertools.count()

        def callback(pipe, step, timestep, tensors, index=index, tile=tile):
            return {"latents": exchange(index, next(tile), tensors["latents"])} if exchange else {}

        output = pipe(sample.image, num_inference_steps=1, batch_size=1, callback_on_step_end=callback)
        counts.append(count_image(output.mask[0, 0], sample.mask))
    return counts


def record_variables(pipe: IRSTDLatentPipeline, samples: list[Sample]) -> list[list[torch.Tensor]]:
    """The variables (1, 8, h, w) that the denoiser predicts for each tile of each image."""
    recorded: list[list[torch.Tensor]] = [[] for _ in samples]

    def record(index: int, tile: int, latents: torch.Tensor) -> torch.Tensor:
        recorded[index].append(latents)
        return latents

    score(pipe, samples, record)
    return recorded


def fit(tiles: list[torch.Tensor], tile: int, size: torch.Size) -> torch.Tensor:
    """Variables of another image's tile, cut or continued by reflection to the grid `size` = (h, w)."""
    variables = tiles[tile % len(tiles)]  # (1, 8, h', w')
    cut = variables[..., : size[0], : size[1]].cpu().numpy()
    missing = [(0, 0), (0, 0), (0, size[0] - cut.shape[2]), (0, size[1] - cut.shape[3])]
    return torch.from_numpy(np.pad(cut, missing, mode="reflect")).to(variables)


def true_variables(pipe: IRSTDLatentPipeline, mask: np.ndarray, tile: int) -> torch.Tensor:
    """The Mask-VAE's posterior variables (1, 8, h, w) of one tile of a mask (H, W) bool."""
    tile_size = pipe.config.default_tile_size or max(mask.shape)
    window = tile_windows(mask.shape, tile_size, pipe.config.default_tile_overlap)[tile]
    padded = torch.from_numpy(pad_image(mask[window].astype(np.float32)))[None, None]
    with torch.no_grad():
        posterior = pipe.vae.encode(padded.to(pipe.vae.device, pipe.vae.dtype) * 2 - 1).latent_dist
    return pipe.vae.posterior_to_variables(posterior)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="data sets in the field's layout, scored together")
    parser.add_argument("--model", default=str(bundled_checkpoint()), help="folder; default: the bundled checkpoint")
    parser.add_argument("--output", type=Path, help="a JSON file for the table")
    arguments = parser.parse_args()

    samples = [one for root in arguments.data for one in samples_of_split(arguments.model, root, "val")]
    pipe = IRSTDLatentPipeline.from_pretrained(arguments.model)
    predicted = record_variables(pipe, samples)
    others = predicted[1:] + predicted[:1]
    exchanges: dict[str, Exchange | None] = {
        "predicted posterior": None,
        "zero posterior": lambda index, tile, latents: torch.zeros_like(latents),
        "another image's posterior": lambda index, tile, latents: fit(others[index], tile, latents.shape[2:]),
        "true posterior": lambda index, tile, latents: true_variables(pipe, samples[index].mask, tile),
    }
    counts = {name: score(pipe, samples, exchange) for name, exchange in exchanges.items()}

    table = {name: {**scores(of_row), "images": len(of_row)} for name, of_row in counts.items()}
    rows = [[name, *quality(row), row["images"], row["targets"]] for name, row in table.items()]
    text = markdown(("row", *QUALITY, "images", "targets"), rows)
    publish("ablate.py", text, rows=table, output=arguments.output)


if __name__ == "__main__":
    main()
