"""An exported detector, run without torch."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..bundled import is_default
from ..data.images import ImageInput, gray_range, network_input, seen_image, to_grays
from ..data.polarity import WHITE_HOT
from ..results import DetectionsMixin
from ..targets import Target, confidence_calibration, resolve_decision
from ..tiling import TileBlender, decide, image_seed, iterate_tiles, resolve_sampling
from .exported import BUNDLED_GRAPH, DESCRIPTION, ENGINES, READABLE, TorchNoise, fastest_engine, read_description


@dataclass(frozen=True)
class DetectorOutput(DetectionsMixin):
    """Detections in N images, as in [`IRSTDPipelineOutput`], always arrays."""

    probability: Any
    mask: Any
    uncertainty: Any
    targets: list[list[Target]]
    images: list[np.ndarray]


class ExportedDetectorRunner:
    """Detects small targets in infrared images of any size, with the networks that `irstd-ldm export` has written.

    Threads may call one runner at a time or all at once. A copy of it, in a pool of processes say, reads the folder
    anew, and a forked process does so in its first call: onnxruntime's threads do not survive a fork. OpenVINO itself
    does not, so that its runner is a RuntimeError there; processes that are spawned take it.

    Example:
        ```py
        >>> from irstd_ldm.runtime.detector import ExportedDetectorRunner

        >>> detector = ExportedDetectorRunner()
        >>> detector("frame.png").targets[0]
        ```

    Args:
        folder: Written by `irstd-ldm export`; None or "tiny" = the bundled detector.
        runtime: ``onnxruntime``; ``openvino``, which reads both formats; ``openvino-bf16``, the same in bfloat16; or
            ``auto``, the faster of the first two that is installed.
        num_threads: Threads of the runtime; None = its own choice.

    Raises:
        ValueError: An unknown runtime, a format that it does not read, a processor that does not compute in its
            precision, or a broken `detector.json`.
        OSError: A file is missing or cannot be read.
        ModuleNotFoundError: The runtime is not installed.
    """

    device = "cpu"

    def __init__(self, folder: str | PathLike | None = None, runtime: str = "auto", num_threads: int | None = None):
        if runtime not in (*ENGINES, "auto"):
            raise ValueError(f"`runtime` must be one of {', '.join(ENGINES)}, auto, got {runtime!r}")
        folder = BUNDLED_GRAPH if folder is None or is_default(folder) else folder
        self.description = read_description(folder)
        if runtime == "auto":
            runtime = fastest_engine(self.description.format)
        if self.description.format not in READABLE[runtime]:
            raise ValueError(
                f"`runtime` {runtime!r} reads the format {' or '.join(READABLE[runtime])}, got "
                f"{self.description.format} in {folder}"
            )
        self.config, self.runtime = self.description.config, runtime
        self._arguments = (os.path.abspath(folder), runtime, num_threads)
        self._load()

    @property
    def files(self) -> list[Path]:
        """What the detector is made of: its description, and its graph with the weights beside it."""
        graph = self.description.model_path(Path(self._arguments[0]))
        return [graph.with_name(DESCRIPTION), *sorted(graph.parent.glob(f"{graph.stem}.*"))]

    def _load(self) -> None:
        folder, runtime, num_threads = self._arguments
        self._infer = ENGINES[runtime](self.description.model_path(Path(folder)), num_threads)
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    @property
    def max_inference_steps(self) -> int:
        return self.description.num_inference_steps

    min_inference_steps = max_inference_steps

    def __call__(
        self,
        image: ImageInput | Iterable[ImageInput],
        num_inference_steps: int | None = None,
        ensemble_size: int | None = None,
        mask_threshold: float | None = None,
        score_threshold: float | None = None,
        max_false_targets_per_megapixel: float | None = None,
        max_fa_per_million_px: float | None = None,
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        input_range: tuple[float, float] | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        return_dict: bool = True,
        ensemble_fusion: str = "mean",
        threshold: float | None = None,
        polarity: str = WHITE_HOT,
    ) -> Any:
        """Detect the targets of one image or of several.

        Arguments, values and errors are those of [`IRSTDLatentPipeline`], with these differences.

        Args:
            num_inference_steps: None, or that of the export.
            seed: Seed of the noise, in [0, 2**63): the results are those of `torch.Generator().manual_seed(seed)`.

        Returns:
            [`DetectorOutput`], or the tuple (probability, mask, uncertainty, targets).

        Raises:
            ValueError: See [`IRSTDLatentPipeline`]; or `num_inference_steps` is not that of the export.
        """
        if num_inference_steps not in (None, self.description.num_inference_steps):
            raise ValueError(
                f"`num_inference_steps` must be {self.description.num_inference_steps}, with which the detector was "
                f"exported, got {num_inference_steps!r}"
            )
        # 1. Check the inputs and fill in the checkpoint's defaults.
        settings = resolve_sampling(
            self.config,
            range(self.min_inference_steps, self.max_inference_steps + 1),
            num_inference_steps=num_inference_steps,
            ensemble_size=ensemble_size,
            tile_size=tile_size,
            tile_overlap=tile_overlap,
            batch_size=batch_size,
            ensemble_fusion=ensemble_fusion,
        )
        budgets = max_false_targets_per_megapixel, max_fa_per_million_px
        decision = resolve_decision(self.config, threshold, mask_threshold, score_threshold, *budgets)

        # 2. Read the images, and draw a seed for each.
        images = to_grays(image)  # N of (H, W)
        grays = [seen_image(one, polarity, input_range) for one in images]
        normalization = self.config["normalization"]
        ranges = [gray_range(gray, input_range, normalization) for gray in grays]
        base_seed = TorchNoise(seed).integer(2**62)
        seeds = [image_seed(base_seed, index) for index in range(len(grays))]

        # 3. Cut tiles, predict the members' probabilities, (B, E, PH, PW), and blend these.
        blenders = [TileBlender(gray.shape, settings) for gray in grays]
        for tiles in iterate_tiles(grays, settings):
            pixels = np.stack([network_input(tile.pixels, ranges[tile.index], normalization) for tile in tiles])
            tile_seeds = [seeds[tile.index] for tile in tiles]
            members = self.predict_probability(pixels, tile_seeds, settings.ensemble_size)
            for tile, of_tile in zip(tiles, members, strict=True):
                blenders[tile.index].add(tile.window, of_tile)

        # 4. Decide, and find the targets.
        found = decide(blenders, grays, decision, confidence_calibration(self.config))
        return DetectorOutput(*found, images) if return_dict else found

    def predict_probability(self, image: np.ndarray, seeds: Sequence[int], ensemble_size: int) -> np.ndarray:
        """Probabilities of the ensemble's members, an image's encoded once per member.

        Args:
            image: (B, PH, PW) float32, about [-1, 1].
            seeds: One seed per image.
            ensemble_size: Members per image; a single one decodes the posterior's mode.

        Returns:
            (B, E, PH, PW) float32 in [0, 1].
        """
        if self._process != os.getpid():
            if self._arguments[1].startswith("openvino"):
                raise RuntimeError("OpenVINO does not run in a forked process: spawn it, or use onnxruntime")
            self._load()
        inputs = self.description.inputs(image, seeds, ensemble_size)
        probability = self._infer(inputs)  # (B*E, 1, PH, PW)
        return probability.reshape(len(image), ensemble_size, *image.shape[1:])
