"""The data engine's pipeline with small random networks: shapes, seeds, targets, tiles, schedulers, checkpoints."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DPMSolverMultistepScheduler, UNet2DConditionModel

from irstd_ldm import GaussianAgnosticPipeline, IRSTDRestorationModel
from irstd_ldm.data.ggs import squeeze, target_contrasts
from irstd_ldm.data.synthetic import synthetic_scene
from irstd_ldm.models.configurations import GENERATOR_CONFIGURATIONS
from irstd_ldm.models.image_vae import WaveletAutoencoderKL
from irstd_ldm.models.prompt_embedding import PromptEmbedding
from irstd_ldm.pipelines.pipeline_gaussian_agnostic import (
    adain_color_fix,
    keep_contrasts,
    low_frequencies,
    paste,
    unit_range,
    wavelet_color_fix,
)
from irstd_ldm.targets import label_components
from irstd_ldm.tiling import pad_image
from irstd_ldm.training.train_image_unet import make_scheduler


def make_pipeline() -> GaussianAgnosticPipeline:
    torch.manual_seed(0)
    small = GENERATOR_CONFIGURATIONS["gaussian_agnostic_small"]
    vae = WaveletAutoencoderKL(**small["vae"])
    vae.fit([torch.from_numpy(synthetic_scene(96, 96, seed=9).image / np.float32(127.5))[None] - 1])
    narrow = {"block_out_channels": (8, 8, 16), "norm_num_groups": 4, "cross_attention_dim": 8}
    unet = UNet2DConditionModel(**small["unet"] | narrow)
    controlnet = ControlNetModel.from_unet(unet, conditioning_channels=16, conditioning_embedding_out_channels=(8,))
    for convolution in [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]:
        torch.nn.init.normal_(convolution.weight, std=0.1)
    pipeline = GaussianAgnosticPipeline(
        restoration=IRSTDRestorationModel(embed_dim=8, depths=(1,), num_heads=(2,), window_size=4).eval(),
        vae=vae.eval(),
        unet=unet.eval(),
        controlnet=controlnet.eval(),
        prompt_embedding=PromptEmbedding(1, 8),
        scheduler=make_scheduler(),
        default_num_inference_steps=2,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipeline() -> GaussianAgnosticPipeline:
    return make_pipeline()


@pytest.fixture(scope="module")
def scene():
    return synthetic_scene(100, 90, seed=1, scr=6.0)


def test_images_masks_and_group_counts(pipeline, scene):
    output = pipeline([scene.image, scene.image], mask=[scene.mask, scene.mask], num_images_per_prompt=2)
    assert len(output.images) == len(output.masks) == len(output.num_groups) == 4
    for image, mask in zip(output.images, output.masks, strict=True):
        assert image.shape == (100, 90) and image.dtype == np.float32
        assert 0 <= image.min() and image.max() <= 1
        assert np.array_equal(mask, scene.mask)
    assert all(n % 2 == 0 and 8 <= n <= 26 for n in output.num_groups)
    assert not np.array_equal(output.images[0], output.images[1])
    assert pipeline(scene.image).masks is None


def test_same_seed_same_images_alone_or_in_a_batch(pipeline, scene):
    def run(**arguments) -> list[np.ndarray]:
        return pipeline(scene.image, generator=torch.Generator().manual_seed(3), **arguments).images

    alone, again, batch = run(), run(), run(num_images_per_prompt=3)
    assert np.array_equal(alone[0], again[0])
    np.testing.assert_allclose(batch[0], alone[0], atol=1e-4)
    together = run(num_images_per_prompt=3, batch_size=2)
    np.testing.assert_allclose(together, batch, atol=1e-4)
    assert not np.array_equal(alone[0], pipeline(scene.image, generator=torch.Generator().manual_seed(4)).images[0])


def test_images_with_generators_of_their_own_do_not_depend_on_what_runs_beside_them(pipeline, scene):
    other = synthetic_scene(100, 90, seed=2).image
    wide = synthetic_scene(100, 200, seed=3).image
    images = [scene.image, wide, other, scene.image]
    made = pipeline(images, generator=[torch.Generator().manual_seed(k) for k in range(4)], batch_size=3)
    for k, image in enumerate(images):
        alone = pipeline(image, generator=torch.Generator().manual_seed(k))
        np.testing.assert_allclose(made.images[k], alone.images[0], atol=1e-4)
        assert made.num_groups[k] == alone.num_groups[0]
    with pytest.raises(ValueError, match="one per image, got 1 for 4"):
        pipeline(images, generator=[torch.Generator()])


def test_targets_are_pasted_with_a_feathered_edge(pipeline, scene):
    original = unit_range(scene.image)
    pasted = pipeline(scene.image, mask=scene.mask).images[0]
    labels, components = label_components(scene.mask)
    for component in components:
        shifts = (pasted - original)[labels == component.label]
        np.testing.assert_allclose(shifts, shifts.mean(), atol=1e-6)  # its own pixels, all shifted alike


def test_a_pasted_target_keeps_its_contrast_and_halo_and_meets_its_new_surroundings():
    mask = np.zeros((41, 41), bool)
    mask[20, 20] = True
    original = np.full((41, 41), 0.25, np.float32)
    original[mask] = 0.5
    generated = np.full((41, 41), 0.5, np.float32)  # brighter surroundings, and no target
    pasted = paste(generated, original, mask)
    np.testing.assert_allclose(pasted[20, 16:25], [0.5] * 4 + [0.75] + [0.5] * 4, atol=1e-6)
    original[20, 18] = original[20, 13] = original[20, 11] = 0.375  # 2, 7 and 9 px from the target
    fading = paste(generated, original, mask) - pasted
    np.testing.assert_allclose(fading[20, [18, 13, 11]], [0.125, 0.125 / 3, 0], atol=5e-3)
    assert np.abs(fading[21:]).max() < 5e-3  # the pixels that are not pasted count among the surroundings
    everything = np.ones((41, 41), bool)
    np.testing.assert_array_equal(paste(generated, original, everything), original)


def test_pasted_surroundings_follow_a_slope():
    """No ring: what is pasted is shifted as its surroundings are, on each side of the target."""
    mask = np.zeros((61, 61), bool)
    mask[28:33, 28:33] = True
    original = np.full((61, 61), 0.5, np.float32)
    generated = np.broadcast_to(np.linspace(0.3, 0.7, 61, dtype=np.float32), (61, 61))
    assert np.abs(paste(generated, original, mask) - generated).max() < 0.03  # a constant shift: 0.05 at 7 px


def test_a_target_that_another_encloses_is_pasted_too():
    rows, columns = np.mgrid[-10:11, -10:11]
    reach = np.maximum(np.abs(rows), np.abs(columns))
    mask = (reach == 0) | (reach == 2)
    original, generated = np.where(mask, 0.5, 0.25).astype(np.float32), np.full(mask.shape, 0.5, np.float32)
    assert np.isfinite(paste(generated, original, mask)).all()


def test_generated_targets_get_their_contrast_back():
    mask = np.zeros((60, 90), bool)
    mask[20:22, 20:23] = mask[40:43, 60:62] = True
    rng = np.random.default_rng(0)
    original = (0.3 + 0.02 * rng.standard_normal((60, 90))).astype(np.float32)
    original[mask] += 0.3
    generated = (0.5 + 0.02 * rng.standard_normal((60, 90))).astype(np.float32)
    generated[20:22, 20:23] += 0.15  # half of its contrast; the other target is lost
    kept = keep_contrasts(generated, original, mask)
    np.testing.assert_allclose(target_contrasts(kept, mask), target_contrasts(original, mask), rtol=0.1)
    assert np.array_equal(kept[:10], generated[:10]) and kept.dtype == np.float32
    shape = generated[20:22, 20:23] - generated[20:22, 20:23].mean()
    np.testing.assert_allclose(kept[20:22, 20:23] - kept[20:22, 20:23].mean(), 2 * shape, atol=0.02)  # its own
    pasted = original[40:43, 60:62] - original[40:43, 60:62].mean()
    np.testing.assert_allclose(kept[40:43, 60:62] - kept[40:43, 60:62].mean(), pasted, atol=1e-6)
    for same in (np.zeros_like(mask), np.ones_like(mask)):
        np.testing.assert_array_equal(keep_contrasts(generated, original, same), original if same.any() else generated)


def test_an_empty_mask_pastes_nothing(pipeline, scene):
    empty = np.zeros_like(scene.mask)
    images = [pipeline(scene.image, mask=mask).images[0] for mask in (empty, None)]
    assert np.array_equal(*images)


def test_wavelet_fix_takes_low_frequencies_from_the_reference():
    generator = torch.Generator().manual_seed(0)
    generated, reference = torch.rand(2, 1, 1, 96, 96, generator=generator)
    fixed = wavelet_color_fix(generated, reference)
    torch.testing.assert_close(fixed, generated - low_frequencies(generated) + low_frequencies(reference))
    point = torch.zeros(1, 1, 96, 96)
    point[..., 47:50, 47:50] = 1
    assert low_frequencies(point).max() < 0.01  # a 3x3 target keeps less than 1 % in the low band
    torch.testing.assert_close(low_frequencies(torch.full((1, 1, 40, 40), 0.7)), torch.full((1, 1, 40, 40), 0.7))


def test_adain_fix_takes_mean_and_deviation():
    generator = torch.Generator().manual_seed(0)
    generated, reference = torch.rand(2, 1, 1, 32, 32, generator=generator)
    fixed = adain_color_fix(generated, reference * 3 + 1)
    assert fixed.mean().item() == pytest.approx((reference * 3 + 1).mean().item(), abs=1e-3)
    assert fixed.std().item() == pytest.approx(3 * reference.std().item(), rel=1e-3)


@pytest.mark.parametrize("color_fix", ["wavelet", "adain", None])
def test_color_fixes(pipeline, scene, color_fix):
    output = pipeline(scene.image, color_fix=color_fix)
    assert np.isfinite(output.images[0]).all()


def test_few_steps_with_another_scheduler(scene):
    pipeline = make_pipeline()
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    seen = []

    def note(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), tuple(tensors["latents"].shape)))

    output = pipeline(scene.image, num_inference_steps=4, callback_on_step_end=note)
    assert len(seen) == 4 and seen[0][2] == (1, 16, 32, 32)
    assert np.isfinite(output.images[0]).all()


@pytest.mark.parametrize("few_steps", [False, True])
def test_strength_skips_the_first_steps(scene, few_steps):
    pipeline = make_pipeline()
    if few_steps:
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    seen = []
    pipeline(
        scene.image,
        num_inference_steps=10,
        strength=0.3,
        callback_on_step_end=lambda pipe, step, timestep, tensors: seen.append(int(timestep)),
    )
    assert len(seen) == 3 and seen == sorted(seen, reverse=True) and seen[0] < 400


def test_tiles_equal_the_whole_where_networks_are_local(pipeline):
    """Tiled and untiled agree in size and range; one tile is the untiled result to the bits."""
    image = synthetic_scene(160, 230, seed=2, num_targets=0).image
    whole = pipeline(image, tile_size=0).images[0]
    assert np.array_equal(whole, pipeline(image, tile_size=288).images[0])
    tiled = pipeline(image, tile_size=128, tile_overlap=64).images[0]
    assert tiled.shape == whole.shape and np.isfinite(tiled).all()
    assert abs(tiled.mean() - whole.mean()) < 0.05


def test_an_image_of_512_px_is_one_tile():
    """By default."""
    pipeline, seen = make_pipeline(), []
    image = synthetic_scene(512, 512, seed=4).image
    encode_hint = pipeline.encode_hint
    pipeline.encode_hint = lambda restored: seen.append(tuple(restored.shape)) or encode_hint(restored)
    pipeline(image, num_inference_steps=1)
    assert seen == [(1, 1, 512, 512)]


def test_sixteen_bit_images_span_their_own_range(pipeline):
    scene = synthetic_scene(100, 90, seed=1, bit_depth=16)
    gray = unit_range(scene.image)
    assert (gray.min(), gray.max()) == (0, 1)
    assert pipeline(scene.image).images[0].shape == (100, 90)
    assert np.array_equal(unit_range(np.full((4, 4), 7, np.uint16)), np.zeros((4, 4)))


def test_the_squeezed_image_is_the_squeezers(pipeline, scene):
    generators = [torch.Generator().manual_seed(5)]
    squeezed, (num_groups,) = pipeline.squeeze([pad_image(unit_range(scene.image))[None]], generators)
    source = torch.Generator().manual_seed(5)
    torch.randn((), generator=source, dtype=torch.float64)
    padded = torch.from_numpy(np.pad(unit_range(scene.image), ((0, 28), (0, 38)), mode="reflect"))[None]
    assert torch.equal(squeezed[0], squeeze(padded, num_groups, source))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images_per_prompt": 0}, "`num_images_per_prompt` must be"),
        ({"num_inference_steps": -1}, "`num_inference_steps` must be"),
        ({"strength": 0}, "`strength` must lie"),
        ({"color_fix": "lab"}, "`color_fix` must be one of wavelet, adain"),
        ({"tile_size": 100}, "`tile_size` must be a multiple"),
        ({"tile_size": 128, "tile_overlap": 128}, "`tile_overlap` must be less"),
        ({"mask": np.zeros((100, 91), bool)}, "`mask` must be bool and of its image's shape"),
        ({"mask": np.zeros((100, 90))}, "`mask` must be bool"),
        ({"mask": []}, "`mask` must hold one mask per image"),
    ],
)
def test_wrong_arguments(pipeline, scene, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline(scene.image, **arguments)


def test_no_image_is_an_error(pipeline):
    with pytest.raises(ValueError, match="`image` must hold at least one"):
        pipeline([])


def test_checkpoint_round_trip_with_and_without_the_package(pipeline, scene, tmp_path):
    folder = tmp_path / "checkpoint"
    pipeline.save_pretrained(folder, remote_code=True)
    expected = pipeline(scene.image).images[0]
    loaded = GaussianAgnosticPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    assert np.array_equal(loaded(scene.image).images[0], expected)
    np.save(tmp_path / "image.npy", scene.image)
    program = (
        "import sys; sys.modules['irstd_ldm'] = None\n"
        "import numpy as np\nfrom diffusers import DiffusionPipeline\n"
        f"pipe = DiffusionPipeline.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        f"made = pipe(np.load({str(tmp_path / 'image.npy')!r})).images[0]\n"
        f"np.save({str(tmp_path / 'made.npy')!r}, made)\n"
    )
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": "", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "made.npy"), expected, atol=1e-6)


def test_weights_are_safetensors_alone(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "checkpoint")
    suffixes = {path.suffix for path in Path(tmp_path / "checkpoint").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}
