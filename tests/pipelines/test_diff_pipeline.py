"""The pixel pipeline: exactness of its steps, encoder calls, ensembles, schedulers, seeds."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, LCMScheduler
from diffusers.models.unets.unet_2d import UNet2DOutput

from irstd_ldm.models.pixel_unet import IRSTDUNet2DModel
from irstd_ldm.pipelines.detection import IRSTDPipelineOutput
from irstd_ldm.tiling import FUSIONS
from irstd_ldm.training.train_pixel import PixelSettings, make_scheduler

SCHEDULERS = {
    "ddim": (DDIMScheduler, {}),
    "ddpm": (DDPMScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"thresholding": True, "sample_max_value": 1.0}),
    "lcm": (LCMScheduler, {}),
}


def frame(height: int = 70, width: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width), np.uint8, endpoint=True)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def swap_scheduler(pipeline, name: str) -> None:
    scheduler_class, arguments = SCHEDULERS[name]
    pipeline.scheduler = scheduler_class.from_config(pipeline.scheduler.config, **arguments)


class PerfectDenoiser(IRSTDUNet2DModel):
    """Knows the clean mask and predicts from it whatever the scheduler asks for."""

    def know(self, clean: torch.Tensor, scheduler: DDIMScheduler) -> None:
        self.clean, self.scheduler = clean, scheduler

    def forward(self, sample, timestep, residuals=(), return_dict=True):
        signal = self.scheduler.alphas_cumprod[timestep].sqrt()
        noise = (sample[:, -1:] - signal * self.clean) / (1 - signal**2).sqrt()
        prediction = {
            "sample": self.clean,
            "epsilon": noise,
            "v_prediction": signal * noise - (1 - signal**2).sqrt() * self.clean,
        }[self.scheduler.config.prediction_type]
        return UNet2DOutput(sample=prediction)


@pytest.fixture
def perfect(tiny_diff_pipeline):
    """The pipeline with a perfect denoiser, and the mask (128, 128) that it knows."""
    mask = np.zeros((128, 128), bool)
    mask[20:23, 30:34] = mask[100, 5] = True
    unet = PerfectDenoiser(**tiny_diff_pipeline.unet.config).eval()

    def make(**settings):
        scheduler = make_scheduler(PixelSettings(train_data_dir="", output_dir="", **settings))
        unet.know(torch.from_numpy(mask)[None, None].float() * 2 - 1, scheduler)
        tiny_diff_pipeline.register_modules(unet=unet, scheduler=scheduler)
        return tiny_diff_pipeline

    return make, mask


@pytest.mark.parametrize("num_train_timesteps", (100, 1000))
@pytest.mark.parametrize("prediction_type", ("sample", "v_prediction", "epsilon"))
def test_one_ddim_step_of_a_perfect_denoiser_is_the_mask(perfect, prediction_type, num_train_timesteps):
    make, mask = perfect
    pipeline = make(prediction_type=prediction_type, num_train_timesteps=num_train_timesteps, beta_schedule="linear")
    output = pipeline(frame(128, 128), num_inference_steps=1)
    np.testing.assert_array_equal(output.mask[0, 0], mask)
    np.testing.assert_allclose(output.probability[0, 0], mask, atol=1e-6 if prediction_type == "sample" else 1e-3)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    ("prediction_type", "beta_schedule"),
    (("sample", "squaredcos_cap_v2"), ("v_prediction", "linear"), ("epsilon", "linear")),
)
@pytest.mark.parametrize("num_train_timesteps", (100, 1000))
def test_every_scheduler_ends_at_the_mask(perfect, scheduler, prediction_type, beta_schedule, num_train_timesteps):
    make, mask = perfect
    pipeline = make(
        prediction_type=prediction_type, beta_schedule=beta_schedule, num_train_timesteps=num_train_timesteps
    )
    swap_scheduler(pipeline, scheduler)
    for steps in (1, 2, 4, 20):
        output = pipeline(frame(128, 128), num_inference_steps=steps)
        np.testing.assert_allclose(output.probability[0, 0], mask, atol=0.02)


def test_a_golden_slice(tiny_diff_pipeline):
    swap_scheduler(tiny_diff_pipeline, "ddim")
    probability = tiny_diff_pipeline(frame(), num_inference_steps=2).probability
    expected = [[0.57166, 0.32830, 0.51773], [0.53019, 0.84443, 0.57121]]
    np.testing.assert_allclose(probability[0, 0, 30:32, 20:23], expected, atol=1e-4)


def test_output_fields(tiny_diff_pipeline):
    output = tiny_diff_pipeline([frame(), frame(seed=1)], num_inference_steps=2, ensemble_size=2)
    assert isinstance(output, IRSTDPipelineOutput)
    assert output.probability.shape == output.mask.shape == output.uncertainty.shape == (2, 1, 70, 50)
    assert output.probability.dtype == np.float32
    assert output.probability.min() >= 0 and output.probability.max() <= 1
    for targets, mask in zip(output.targets, output.mask, strict=True):
        assert sum(target.area_px for target in targets) == mask.sum() > 0


@torch.no_grad()
def test_no_step_is_the_conditional_encoder_alone(tiny_diff_pipeline):
    image = frame(128, 128)
    logits = tiny_diff_pipeline.conditional_encoder(torch.from_numpy(image)[None, None] / 127.5 - 1).logits
    tiny_diff_pipeline.unet.register_forward_pre_hook(lambda *arguments: pytest.fail("the denoiser ran"))
    for ensemble_size in (1, 2):
        output = tiny_diff_pipeline(image, num_inference_steps=0, ensemble_size=ensemble_size)
        np.testing.assert_allclose(output.probability, logits.sigmoid().numpy(), atol=1e-6)
    assert not output.uncertainty.any()


def test_the_encoder_runs_once_per_image(tiny_diff_pipeline):
    encoded, denoised = [], []
    tiny_diff_pipeline.conditional_encoder.register_forward_pre_hook(lambda m, args: encoded.append(args[0].shape))
    tiny_diff_pipeline.unet.register_forward_pre_hook(lambda m, args: denoised.append(args[0].shape))
    images = [frame(seed=seed) for seed in range(2)]
    tiny_diff_pipeline(images, num_inference_steps=4, ensemble_size=3, batch_size=2)
    assert encoded == [(2, 1, 128, 128)]
    assert denoised == [(6, 2, 128, 128)] * 4


def test_the_image_stands_before_the_mask_in_every_channel(tiny_diff_pipeline):
    """The published denoiser has three channels of image and, last, the noisy mask."""
    config = tiny_diff_pipeline.unet.config | {"in_channels": 4}
    torch.manual_seed(0)
    tiny_diff_pipeline.register_modules(unet=IRSTDUNet2DModel(**config).eval())
    seen = []
    tiny_diff_pipeline.unet.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    image = frame(128, 128)
    tiny_diff_pipeline(image, num_inference_steps=1)
    expected = torch.from_numpy(image) / 127.5 - 1
    torch.testing.assert_close(seen[0][0, :3], expected.expand(3, -1, -1))
    assert abs(seen[0][0, 3].std() - 1) < 0.05


@pytest.mark.parametrize("scheduler", ("ddim", "ddpm", "lcm"))
def test_seeds_and_batches(tiny_diff_pipeline, scheduler):
    """Also where the scheduler draws noise at every step."""
    swap_scheduler(tiny_diff_pipeline, scheduler)
    images = [frame(seed=seed) for seed in range(3)]

    def run(seed: int | None = 0, batch_size: int = 1) -> np.ndarray:
        generator = None if seed is None else seeded(seed)
        return tiny_diff_pipeline(
            images, num_inference_steps=3, ensemble_size=2, generator=generator, batch_size=batch_size
        ).probability

    state = torch.get_rng_state()
    first = run()
    np.testing.assert_array_equal(run(), first)
    np.testing.assert_array_equal(run(None), first)
    assert not np.array_equal(run(1), first)
    np.testing.assert_allclose(run(batch_size=3), first, atol=1e-4)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_members_are_fused_as_asked(tiny_diff_pipeline, fusion):
    members = []
    predict = tiny_diff_pipeline.predict_probability

    def recording(*arguments):
        members.append(predict(*arguments))
        return members[-1]

    tiny_diff_pipeline.predict_probability = recording
    output = tiny_diff_pipeline(frame(128, 128), ensemble_size=3, ensemble_fusion=fusion)
    ((of_image,),) = members
    np.testing.assert_allclose(output.probability[0, 0], FUSIONS[fusion](of_image), atol=1e-6)
    np.testing.assert_allclose(output.uncertainty[0, 0], of_image.std(axis=0), atol=1e-6)
    assert output.uncertainty.any()


def test_callback_replaces_the_noisy_mask(tiny_diff_pipeline):
    steps = []

    def callback(pipe, step, timestep, tensors):
        steps.append((step, int(timestep), tuple(tensors["latents"].shape)))
        return {"latents": torch.ones_like(tensors["latents"])} if step == 1 else None

    output = tiny_diff_pipeline(frame(), num_inference_steps=2, callback_on_step_end=callback)
    assert steps == [(0, 999, (1, 1, 128, 128)), (1, 499, (1, 1, 128, 128))]
    assert (output.probability == 1).all()


def test_half_precision(tiny_diff_pipeline):
    expected = tiny_diff_pipeline(frame(), num_inference_steps=2).probability
    probability = tiny_diff_pipeline.to(torch.bfloat16)(frame(), num_inference_steps=2).probability
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability, expected, atol=0.1)


def test_large_images_run_in_tiles(tiny_diff_pipeline):
    shapes = []
    tiny_diff_pipeline.unet.register_forward_pre_hook(lambda m, args: shapes.append(tuple(args[0].shape)))
    output = tiny_diff_pipeline(frame(150, 300), tile_size=160, tile_overlap=20)
    assert output.probability.shape == (1, 1, 150, 300)
    assert shapes == [(1, 2, 160, 128)] * 3  # of 160 x 320 when padded


def test_wrong_arguments(tiny_diff_pipeline, tiny_pipeline):
    with pytest.raises(ValueError, match="`num_inference_steps` must be an integer of at least 0, got -1"):
        tiny_diff_pipeline(frame(), num_inference_steps=-1)
    with pytest.raises(ValueError, match="`num_inference_steps` must be an integer of at least 1, got 0"):
        tiny_pipeline(frame(), num_inference_steps=0)
    with pytest.raises(ValueError, match="`num_inference_steps` must be at most 1000, got 1001"):
        tiny_diff_pipeline(frame(), num_inference_steps=1001)
    for pipeline in (tiny_diff_pipeline, tiny_pipeline):
        with pytest.raises(ValueError, match="`ensemble_fusion` must be one of mean, median, staple, got 'max'"):
            pipeline(frame(), ensemble_fusion="max")
