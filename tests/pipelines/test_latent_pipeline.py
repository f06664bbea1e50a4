"""The pipeline with small random networks: randomness, inputs, sizes, tiles, thresholds and errors."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from irstd_ldm.data.images import normalize_image, percentile_range
from irstd_ldm.pipelines.detection import IRSTDPipelineOutput
from irstd_ldm.pipelines.pipeline_irstd_latent import IRSTDLatentPipeline
from irstd_ldm.targets import Target, label_components, resolve_decision
from irstd_ldm.tiling import pad_image


def frame(height: int = 70, width: int = 50, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width), dtype, endpoint=True)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def separating_threshold(probability: np.ndarray) -> float:
    """The middle of the widest gap between the 90th and 98th percentiles: rounding moves no pixel across it."""
    highest = np.sort(probability.ravel())[-probability.size // 10 : -probability.size // 50].astype(float)
    gap = np.argmax(np.diff(highest))
    return float(highest[gap : gap + 2].mean())


def assert_same_targets(targets: list[Target], expected: list[Target]) -> None:
    assert len(targets) == len(expected)
    for target, other in zip(targets, expected, strict=True):
        np.testing.assert_allclose(list(vars(target).values()), list(vars(other).values()), atol=1e-3)


def record_network_calls(pipeline: IRSTDLatentPipeline) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images (B, PH, PW) and members (B, E, PH, PW) of every batch from now on."""
    calls, predict = [], pipeline.predict_probability

    def recording(image, *arguments):
        members = predict(image, *arguments)
        calls.append((image, members))
        return members

    pipeline.predict_probability = recording
    return calls


def test_golden_slice(tiny_pipeline):
    probability = tiny_pipeline(frame()).probability
    expected = [[0.57940, 0.53137, 0.54970], [0.47469, 0.50718, 0.42393], [0.54744, 0.51299, 0.55376]]
    np.testing.assert_allclose(probability[0, 0, 30:33, 20:23], expected, atol=1e-4)


def test_output_fields(tiny_pipeline):
    images = [frame(), frame(seed=1)]
    threshold = separating_threshold(tiny_pipeline(images).probability)
    output = tiny_pipeline(images, threshold=threshold)
    assert isinstance(output, IRSTDPipelineOutput)
    assert output.probability.shape == output.mask.shape == (2, 1, 70, 50)
    assert output.probability.dtype == np.float32 and output.mask.dtype == np.bool_
    assert output.probability.min() >= 0 and output.probability.max() <= 1
    np.testing.assert_array_equal(output.mask, output.probability > threshold)
    assert output.mask.any() and not output.mask.all()
    assert output.uncertainty is None
    for targets, mask, probability in zip(output.targets, output.mask, output.probability, strict=True):
        assert sum(target.area_px for target in targets) == mask.sum()
        assert max(target.peak for target in targets) == probability.max()


def test_output_type_pt_and_tuple(tiny_pipeline):
    for images in ([frame(), frame(seed=1)], [frame(), frame(40, 90)]):
        output = tiny_pipeline(images, ensemble_size=2)
        tensors = tiny_pipeline(images, ensemble_size=2, output_type="pt")
        *maps, targets = tiny_pipeline(images, ensemble_size=2, return_dict=False)
        for name, in_tuple in zip(("probability", "mask", "uncertainty"), maps, strict=True):
            assert isinstance(tensors[name], list) == isinstance(output[name], list)
            for array, tensor, member in zip(output[name], tensors[name], in_tuple, strict=True):
                assert isinstance(tensor, torch.Tensor)
                np.testing.assert_array_equal(tensor.numpy(), array)
                np.testing.assert_array_equal(member, array)
        assert [len(of_image) for of_image in targets] == [len(of_image) for of_image in output.targets]


def test_seeds(tiny_pipeline):
    state = torch.get_rng_state()
    generators = (seeded(0), seeded(0), None, seeded(1))
    first, again, default, other = (tiny_pipeline(frame(), generator=one).probability for one in generators)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(default, first)
    assert not np.array_equal(other, first)
    assert torch.equal(torch.get_rng_state(), state)


def test_images_of_a_call_draw_different_noise(tiny_pipeline):
    first, second = tiny_pipeline([frame(), frame()]).probability
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("ensemble_size", (1, 2))
def test_batch_size_changes_nothing(tiny_pipeline, ensemble_size):
    images = [frame(seed=seed) for seed in range(3)]
    arguments = {"ensemble_size": ensemble_size, "num_inference_steps": 2}
    threshold = separating_threshold(tiny_pipeline(images, **arguments).probability)
    single, batched = (tiny_pipeline(images, **arguments, threshold=threshold, batch_size=size) for size in (1, 3))
    np.testing.assert_allclose(batched.probability, single.probability, atol=1e-5, rtol=0)
    for targets, expected in zip(batched.targets, single.targets, strict=True):
        assert expected
        assert_same_targets(targets, expected)


@pytest.mark.parametrize("batch_size", (1, 3))
def test_mixed_sizes_give_lists_equal_to_single_results(tiny_pipeline, batch_size):
    """An image's noise follows its place in the call, so its single result is that of the same place."""
    small, wide, tall = frame(), frame(40, 90), frame(200, 60)
    output = tiny_pipeline([small, wide, tall], batch_size=batch_size)
    assert [array.shape for array in output.probability] == [(1, 70, 50), (1, 40, 90), (1, 200, 60)]
    assert [array.shape for array in output.mask] == [(1, 70, 50), (1, 40, 90), (1, 200, 60)]
    for place, image in enumerate((small, wide, tall)):
        alone = tiny_pipeline([image] * (place + 1)).probability[place]
        np.testing.assert_allclose(output.probability[place], alone, atol=1e-5, rtol=0)


def test_ensemble_averages_its_members(tiny_pipeline):
    calls = record_network_calls(tiny_pipeline)
    output = tiny_pipeline([frame(), frame(seed=1)], ensemble_size=3, batch_size=2)
    ((_, members),) = calls
    members = members[:, :, :70, :50]  # (N, E, H, W)
    assert output.uncertainty.shape == (2, 1, 70, 50) and output.uncertainty.dtype == np.float32
    np.testing.assert_allclose(output.probability[:, 0], members.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(output.uncertainty[:, 0], members.std(axis=1), atol=1e-6)
    assert (output.uncertainty > 0).any()


@pytest.mark.parametrize("steps", (1, 2, 4))
def test_steps(tiny_pipeline, steps):
    probability = tiny_pipeline(frame(), num_inference_steps=steps).probability
    assert np.isfinite(probability).all()
    assert np.array_equal(probability, tiny_pipeline(frame()).probability) == (steps == 1)


def test_registered_defaults_are_used(tiny_pipeline):
    explicit = tiny_pipeline(
        frame(200, 150), num_inference_steps=2, ensemble_size=2, threshold=0.0, tile_size=128, tile_overlap=16
    )
    tiny_pipeline.register_to_config(
        default_num_inference_steps=2,
        default_ensemble_size=2,
        default_mask_threshold=0.0,
        default_score_threshold=0.0,
        default_tile_size=128,
        default_tile_overlap=16,
    )
    output = tiny_pipeline(frame(200, 150))
    np.testing.assert_array_equal(output.probability, explicit.probability)
    np.testing.assert_array_equal(output.uncertainty, explicit.uncertainty)
    assert output.mask.all()


def test_a_calibrated_budget_sets_the_threshold(tiny_pipeline):
    probability = tiny_pipeline(frame()).probability
    low, high = (float(np.quantile(probability, level)) for level in (0.3, 0.9))
    tiny_pipeline.register_to_config(calibration={"data": "val", "thresholds": {"50.5": low, "10": high}})
    for budget, threshold in ((50.5, low), (10, high), (10.0, high)):
        mask = tiny_pipeline(frame(), max_fa_per_million_px=budget).mask
        np.testing.assert_array_equal(mask, probability > threshold)
    with pytest.raises(ValueError, match="`max_fa_per_million_px` 20 was never calibrated.*stored: 50.5, 10"):
        tiny_pipeline(frame(), max_fa_per_million_px=20)


def test_the_score_decides_which_components_the_mask_holds(tiny_pipeline):
    level = float(np.quantile(tiny_pipeline(frame()).probability, 0.9))
    every = tiny_pipeline(frame(), mask_threshold=level, score_threshold=0)
    scores = sorted(target.score for target in every.targets[0])
    assert len(scores) > 2
    some = tiny_pipeline(frame(), mask_threshold=level, score_threshold=scores[0])
    assert [target.score for target in some.targets[0]] == [t.score for t in every.targets[0] if t.score > scores[0]]
    assert label_components(some.mask[0, 0])[0].max() == len(some.targets[0])
    assert np.all(every.mask[some.mask]) and some.mask.sum() < every.mask.sum()


def test_a_checkpoint_with_one_threshold_has_it_as_both(tiny_pipeline):
    old = IRSTDLatentPipeline(**tiny_pipeline.components, default_threshold=0.25)
    assert (old.config.default_mask_threshold, old.config.default_score_threshold) == (0.25, 0.25)


def test_budget_errors(tiny_pipeline):
    with pytest.raises(ValueError, match="`max_fa_per_million_px` 10 was never calibrated.*stored: none"):
        tiny_pipeline(frame(), max_fa_per_million_px=10)
    with pytest.raises(ValueError, match="`max_fa_per_million_px` and `threshold` exclude each other"):
        tiny_pipeline(frame(), threshold=0.5, max_fa_per_million_px=10)


@pytest.mark.parametrize(
    ("name", "value"),
    (
        ("num_inference_steps", 0),
        ("num_inference_steps", 1.5),
        ("num_inference_steps", 1001),
        ("ensemble_size", 0),
        ("ensemble_size", "2"),
        ("batch_size", 0),
        ("batch_size", 2.0),
        ("threshold", -0.1),
        ("threshold", 1.1),
        ("threshold", float("nan")),
        ("tile_size", 127),
        ("tile_size", -128),
        ("tile_size", 256.5),
        ("tile_overlap", -1),
        ("tile_overlap", 4096),
        ("tile_overlap", 8.5),
        ("output_type", "pil"),
        ("input_range", (3, 3)),
        ("input_range", (0, float("inf"))),
    ),
)
def test_an_argument_out_of_range_is_named(tiny_pipeline, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        tiny_pipeline(frame(), **{name: value})


def gray_inputs(folder: Path) -> dict[str, object]:
    """One uint8 frame in every form in which a call takes it."""
    gray = frame()
    colour = np.stack([gray] * 3, axis=-1)
    image = Image.fromarray(gray)
    image.save(folder / "frame.png")
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray(frame(seed=1)))
    return {
        "array (H, W, 1)": gray[:, :, None],
        "array (H, W, 3)": colour,
        "tensor (H, W)": torch.from_numpy(gray),
        "tensor (1, H, W)": torch.from_numpy(gray)[None],
        "tensor (3, H, W)": torch.from_numpy(colour).permute(2, 0, 1),
        "L": image,
        "RGB": image.convert("RGB"),
        "RGBA": rgba,
        "P": image.convert("P"),
        "path": folder / "frame.png",
        "text path": str(folder / "frame.png"),
        "list": [gray],
        "tuple": (image,),
    }


def test_every_kind_of_input_gives_the_same(tiny_pipeline, tmp_path):
    expected = tiny_pipeline(frame()).probability
    for kind, image in gray_inputs(tmp_path).items():
        np.testing.assert_array_equal(tiny_pipeline(image).probability, expected, err_msg=kind)


def test_sixteen_bit_inputs_give_the_same(tiny_pipeline, tmp_path):
    gray = frame(dtype=np.uint16)
    expected = tiny_pipeline(gray).probability
    Image.fromarray(gray).save(tmp_path / "frame.png")
    for image in (
        Image.fromarray(gray),
        torch.from_numpy(gray.astype(np.int32)),
        torch.from_numpy(gray),
        tmp_path / "frame.png",
    ):
        np.testing.assert_array_equal(tiny_pipeline(image).probability, expected)
    as_float = tiny_pipeline(gray.astype(np.float32)).probability
    np.testing.assert_allclose(as_float, expected, atol=1e-4)


def test_input_range(tiny_pipeline):
    expected = tiny_pipeline(frame()).probability
    for image, input_range in (
        (frame(), (0, 255)),
        (frame().astype(np.float32), (0, 255)),
        (frame().astype(np.uint16) * 257, (0, 65535)),
    ):
        np.testing.assert_allclose(tiny_pipeline(image, input_range=input_range).probability, expected, atol=1e-5)
    assert not np.allclose(tiny_pipeline(frame(), input_range=(0, 500)).probability, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    (
        ([], ValueError, "`image` must hold at least one image"),
        (np.full((8, 8), np.nan, np.float32), ValueError, "`image` must be finite"),
        (np.full((8, 8), np.inf, np.float32), ValueError, "`image` must be finite"),
        (np.zeros((0, 8), np.uint8), ValueError, "`image` must have at least one pixel"),
        (np.zeros((8, 8, 2), np.uint8), ValueError, "`image` must have the shape"),
        (np.zeros((8, 8), bool), TypeError, "`image` must be uint8"),
        ([np.zeros((8, 8), np.uint8), None], TypeError, "`image` must be a path"),
    ),
)
def test_an_unusable_image_is_refused(tiny_pipeline, image, error, message):
    with pytest.raises(error, match=message):
        tiny_pipeline(image)


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16, np.float32))
@pytest.mark.parametrize(("size", "value"), (((1, 1), 7), ((40, 30), 0), ((40, 30), 255)))
def test_constant_images_run(tiny_pipeline, dtype, size, value):
    output = tiny_pipeline(np.full(size, value, dtype), threshold=0.0)
    assert output.probability.shape == (1, 1, *size)
    assert np.isfinite(output.probability).all()
    (target,) = output.targets[0]
    assert target.area_px == size[0] * size[1] and np.isnan(target.scr)


def test_padding_reflects_repeatedly():
    padded = pad_image(np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    assert padded.shape == (128, 128)
    np.testing.assert_array_equal(padded[0], np.resize([1, 2, 3, 2], 128))
    np.testing.assert_array_equal(padded[:, 2], np.resize([3, 6], 128))
    for shape, expected in (((128, 160), (128, 160)), ((129, 257), (160, 288)), ((1, 1), (128, 128))):
        assert pad_image(np.zeros(shape, np.float32)).shape == expected


@pytest.mark.parametrize(("height", "width"), ((100, 30), (129, 257), (1, 1), (500, 20)))
def test_images_are_padded_and_never_resized(tiny_pipeline, height, width):
    calls = record_network_calls(tiny_pipeline)
    image = frame(height, width)
    output = tiny_pipeline(image, tile_size=0)
    ((seen, members),) = calls
    assert all(side % 32 == 0 and side >= 128 for side in seen.shape[1:])
    np.testing.assert_array_equal(seen[0, :height, :width], normalize_image(image))
    assert output.probability.shape == output.mask.shape == (1, 1, height, width)
    np.testing.assert_array_equal(output.probability[0, 0], members[0, 0, :height, :width])


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16, np.float32))
def test_a_robust_checkpoint_sees_robust_images(tiny_pipeline, dtype):
    tiny_pipeline.register_to_config(normalization="robust")
    calls = record_network_calls(tiny_pipeline)
    image = (frame(150, 140) // 4 + 20).astype(dtype)
    image[:30] = 0
    tiny_pipeline(image, tile_size=0)
    tiny_pipeline(image, tile_size=128, tile_overlap=32)
    tiny_pipeline(image, tile_size=0, input_range=(10, 90))
    (whole, _), *tiles, (by_range, _) = calls
    expected = normalize_image(image, normalization="robust")
    np.testing.assert_array_equal(whole[0, :150, :140], expected)
    windows = [(top, left) for top in (0, 32) for left in (0, 32)]  # of 160 x 160 when padded
    for (tile, _), (top, left) in zip(tiles, windows, strict=True):
        seen = expected[top : top + 128, left : left + 128]
        np.testing.assert_array_equal(tile[0, : len(seen), : seen.shape[1]], seen)
    np.testing.assert_array_equal(by_range[0, :150, :140], normalize_image(image, (10, 90)))


def blend_by_hand(shape: tuple[int, int], tiles: dict[tuple[int, int], np.ndarray], overlap: int) -> np.ndarray:
    """Weighted mean of tiles by their first (row, column).

    They are of 128 x 128 and end beyond the image, where they are cut. A weight is 0.0001 in the outer quarter of the
    overlap and rises linearly to 1 over its middle half.
    """
    margin = overlap // 4

    def share_of(place: int) -> float:
        return min(max((min(place + 1, 128 - place) - margin) / (overlap - 2 * margin + 1), 0.0001), 1)

    total, weight = np.zeros(shape), np.zeros(shape)
    for (top, left), tile in tiles.items():
        for row in range(tile.shape[0]):
            for column in range(tile.shape[1]):
                share = share_of(row) * share_of(column)
                total[top + row, left + column] += share * tile[row, column]
                weight[top + row, left + column] += share
    return total / weight


@pytest.mark.parametrize("batch_size", (1, 4))
def test_tiles_equal_a_loop_over_crops(tiny_pipeline, batch_size):
    image = frame(200, 150)
    tiles = {
        (top, left): tiny_pipeline(image[top : top + 128, left : left + 128], tile_size=0).probability[0, 0]
        for top in (0, 96)  # of 224 when padded
        for left in (0, 32)  # of 160
    }
    output = tiny_pipeline(image, tile_size=128, tile_overlap=32, batch_size=batch_size)
    np.testing.assert_allclose(output.probability[0, 0], blend_by_hand((200, 150), tiles, 32), atol=1e-5)


def test_the_ensemble_of_tiles_is_taken_per_pixel_after_blending(tiny_pipeline):
    image = frame(100, 150)
    members = [[], []]
    calls = record_network_calls(tiny_pipeline)
    output = tiny_pipeline(image, tile_size=128, tile_overlap=32, ensemble_size=2)
    for _, of_tile in calls:
        for member in range(2):
            members[member].append(of_tile[0, member, :100])
    blended = [blend_by_hand((100, 150), {(0, 0): left, (0, 32): right[:, :118]}, 32) for left, right in members]
    np.testing.assert_allclose(output.probability[0, 0], np.mean(blended, axis=0), atol=1e-5)
    np.testing.assert_allclose(output.uncertainty[0, 0], np.std(blended, axis=0), atol=1e-5)


def test_tiles_are_normalised_by_their_frame(tiny_pipeline):
    image = frame(100, 200, dtype=np.uint16)
    image[:, :128] //= 16
    tiles = {"tile_size": 128, "tile_overlap": 64}
    by_frame = tiny_pipeline(image, **tiles).probability
    by_range = tiny_pipeline(image, **tiles, input_range=percentile_range(image)).probability
    np.testing.assert_allclose(by_frame, by_range, atol=1e-6)


def test_an_image_no_larger_than_a_tile_is_not_tiled(tiny_pipeline):
    image = frame(128, 100)
    whole = tiny_pipeline(image, tile_size=0).probability
    for arguments in ({"tile_size": 128, "tile_overlap": 32}, {"tile_size": 512}, {}):
        np.testing.assert_array_equal(tiny_pipeline(image, **arguments).probability, whole)


def test_tiles_without_overlap(tiny_pipeline):
    image = frame(100, 256)
    left, right = (tiny_pipeline(half).probability for half in (image[:, :128], image[:, 128:]))
    tiled = tiny_pipeline(image, tile_size=128, tile_overlap=0).probability
    np.testing.assert_allclose(tiled, np.concatenate([left, right], axis=-1), atol=1e-6)


@pytest.fixture
def watch(tiny_pipeline) -> Callable[[dict | None], list]:
    """Runs two steps with a callback that returns `reply`; gives what the callback received."""

    def run(reply: dict | None) -> list:
        received = []

        def callback(pipeline, step, timestep, tensors):
            received.append((pipeline, step, int(timestep), tensors["latents"]))
            return reply

        probability = tiny_pipeline(frame(), num_inference_steps=2, callback_on_step_end=callback).probability
        return [*received, probability]

    return run


def test_callback_runs_after_every_step(tiny_pipeline, watch):
    expected = tiny_pipeline(frame(), num_inference_steps=2).probability
    for reply in ({}, None):
        *received, probability = watch(reply)
        assert [(step, timestep) for _, step, timestep, _ in received] == [(0, 999), (1, 499)]
        assert all(pipeline is tiny_pipeline for pipeline, *_ in received)
        assert all(latents.shape == (1, 8, 16, 16) for *_, latents in received)
        np.testing.assert_array_equal(probability, expected)


def test_callback_may_replace_the_latents(tiny_pipeline, watch):
    latents = torch.randn(1, 8, 16, 16, generator=seeded(3))
    *_, probability = watch({"latents": latents})
    image = torch.from_numpy(pad_image(normalize_image(frame())))[None, None]
    with torch.no_grad():
        features = tiny_pipeline.image_encoder(image).features
        z = tiny_pipeline.vae.variables_to_posterior(latents).mode()
        expected = tiny_pipeline.vae.decode(z, image_features=features).sample.sigmoid()
    np.testing.assert_allclose(probability, expected[..., :70, :50].numpy(), atol=1e-6)


def test_callback_gets_the_tensors_that_it_names(tiny_pipeline):
    received = []

    def callback(pipeline, step, timestep, tensors):
        received.append({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return {"image_latent": torch.zeros_like(tensors["image_latent"])}

    names = ["image_latent", "tokens"]
    changed, expected = (
        tiny_pipeline(frame(), num_inference_steps=2, callback_on_step_end_tensor_inputs=names, **keywords).probability
        for keywords in ({"callback_on_step_end": callback}, {})
    )
    assert received == [{"image_latent": (1, 32, 16, 16), "tokens": (1, 32, 16)}] * 2
    assert not np.array_equal(changed, expected)  # the second step saw no image
    message = "`callback_on_step_end_tensor_inputs` must be among latents, image_latent, tokens, got .'noise'"
    with pytest.raises(ValueError, match=message):
        tiny_pipeline(frame(), callback_on_step_end_tensor_inputs=["noise"])


def test_the_progress_bar_counts_steps_of_tiles(tiny_pipeline, capsys):
    tiny_pipeline(frame())
    assert capsys.readouterr().err == ""
    arguments = {"num_inference_steps": 2, "tile_size": 128, "tile_overlap": 0}
    for batch_size in (1, 2):
        tiny_pipeline(frame(100, 256), **arguments, batch_size=batch_size)
        assert "4/4" in capsys.readouterr().err
    tiny_pipeline.set_progress_bar_config(disable=True)
    tiny_pipeline(frame(100, 256), **arguments)
    assert capsys.readouterr().err == ""


def test_from_pipe_shares_the_components_and_keeps_the_config(tiny_pipeline):
    tiny_pipeline.register_to_config(
        default_mask_threshold=0.25,
        calibration={"data": "val", "score_thresholds": {"max_fa_per_million_px": {"10": 0.7}}},
    )
    other = IRSTDLatentPipeline.from_pipe(tiny_pipeline)
    assert other is not tiny_pipeline
    for name, component in tiny_pipeline.components.items():
        assert getattr(other, name) is component
    assert other.config.default_mask_threshold == 0.25
    assert resolve_decision(other.config, max_fa_per_million_px=10).score_threshold == 0.7
    np.testing.assert_array_equal(other(frame()).probability, tiny_pipeline(frame()).probability)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision(tiny_pipeline, dtype):
    expected = tiny_pipeline(frame(), ensemble_size=2).probability
    probability = tiny_pipeline.to(dtype)(frame(), ensemble_size=2).probability
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, expected, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": "a"}, "`seed` must be an integer, got 'a'"),
        ({"generator": [torch.Generator()]}, "`generator` must be one torch.Generator for all images, got list"),
    ],
)
def test_a_source_of_randomness_of_another_type_is_named(tiny_pipeline, arguments, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        tiny_pipeline(frame(), **arguments)
