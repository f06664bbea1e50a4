"""Train the pixel detector: conditional encoder and denoiser together (IRSTD-Diff).

    accelerate launch training/train_pixel.py --config training/recipes/irstd_diff_small.yaml \
        --train_data_dir DATA --output_dir runs/irstd_diff_small
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from irstd_ldm.data.crops import setting
from irstd_ldm.evaluation.counts import count_image
from irstd_ldm.models.conditional_encoder import ConditionalEncoder
from irstd_ldm.models.configurations import PIXEL_CONFIGURATIONS
from irstd_ldm.models.pixel_unet import IRSTDUNet2DModel
from irstd_ldm.pipelines.pipeline_irstd_diff import IRSTDDiffPipeline
from irstd_ldm.training.detectors import DetectorTask, scores_of_data_sets
from irstd_ldm.training.loop import Validation
from irstd_ldm.training.losses import batch_iou, bce_loss, dice_loss, probability_dice_loss
from irstd_ldm.training.settings import DetectorSettings
from irstd_ldm.training.training_data import TrainingData

PREDICTION_TYPES = ("sample", "v_prediction", "epsilon")
BETA_SCHEDULES = ("squaredcos_cap_v2", "linear")


@dataclass(kw_only=True)
class PixelSettings(DetectorSettings):
    """Settings of the pixel detector's trainer."""

    configurations: ClassVar[dict[str, Any]] = PIXEL_CONFIGURATIONS

    model: str = setting("irstd_diff_small", "Pixel configuration in irstd_ldm.models.configurations.")
    use_liw: bool = setting(True, "LIW on the second skip of the conditional encoder.")
    use_residuals: bool = setting(True, "The encoder's features enter the denoiser; as released: false.")
    sees_map: bool = setting(False, "The encoder's own map is an input of the denoiser.")
    num_train_timesteps: int = setting(1000, "T of the diffusion.")
    beta_schedule: str = setting(
        "squaredcos_cap_v2", "squaredcos_cap_v2, or linear as published: 0.1/T to 20/T.", one_of=BETA_SCHEDULES
    )
    prediction_type: str = setting(
        "sample", "What the denoiser predicts: sample, v_prediction or epsilon.", one_of=PREDICTION_TYPES
    )
    snr_shift_db: float = setting(
        0.0, "Decibels by which every timestep's signal-to-noise ratio is lowered, so that noise hides masks longer."
    )
    num_inference_steps: int = setting(1, "Denoising steps of the validation, and the checkpoint's default.")
    last_timestep_share: float = setting(0.5, "Share of crops denoised from pure noise; others uniformly.")
    own_state_share: float = setting(
        0.0, "Share of crops denoised from a state that the denoiser's own answer at an earlier step leads to."
    )
    diffusion_weight: float = setting(50.0, "Weight of the squared error of the denoiser's prediction.")
    sample_dice_weight: float = setting(1.0, "Weight of the Dice loss of the clean mask that a prediction means.")
    bce_weight: float = setting(50.0, "Weight of the encoder's cross-entropy, of fused and levels' maps.")
    dice_weight: float = setting(1.0, "Weight of the encoder's Dice loss, of the same maps.")

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.last_timestep_share <= 1:
            raise ValueError(f"`last_timestep_share` must lie in [0, 1], got {self.last_timestep_share}")
        if not 0 <= self.own_state_share <= 1 - self.last_timestep_share:
            raise ValueError(
                f"`own_state_share` must lie in [0, 1 - `last_timestep_share`], got {self.own_state_share}"
            )
        if self.own_state_share and self.prediction_type != "sample":
            raise ValueError(f"`own_state_share` needs the prediction type sample, got {self.prediction_type}")
        if not 1 <= self.num_inference_steps <= self.num_train_timesteps:
            allowed = f"[1, `num_train_timesteps`] = [1, {self.num_train_timesteps}]"
            raise ValueError(f"`num_inference_steps` must lie in {allowed}, got {self.num_inference_steps}")


class PixelStepOutput(NamedTuple):
    """The losses' ingredients, (B, 1, S, S) each: the denoiser's prediction from noisy masks, the encoder's logits."""

    predicted: Tensor
    noisy: Tensor
    logits: Tensor  # logits fused from all levels
    side_logits: list[Tensor]  # logits of each level


class PixelStep(nn.Module):
    """One training step's forward pass: the encoder on the image, the denoiser on a noisy mask."""

    def __init__(self, unet: IRSTDUNet2DModel, conditional_encoder: ConditionalEncoder, scheduler: DDPMScheduler):
        super().__init__()
        self.unet, self.conditional_encoder, self.scheduler = unet, conditional_encoder, scheduler

    def forward(
        self,
        image: Tensor,
        mask: Tensor,
        timesteps: Tensor,
        noise: Tensor,
        *own: Tensor,
    ) -> PixelStepOutput:
        """Encode images (B, 1, S, S), about [-1, 1], and denoise masks in {0, 1} with noise (B, 1, S, S).

        `own`, where given, are indices (K,) of crops that come to their timesteps by a step of the scheduler's, as in
        sampling, the earlier timesteps (K,) that it is from and its noise (K, 1, S, S): what the denoiser got wrong
        there is then a part of what it sees.
        """
        encoded = self.conditional_encoder(image)
        noisy = self.scheduler.add_noise(mask * 2 - 1, noise, timesteps)
        pixels = self.unet.condition(image, encoded.logits.detach())
        if own:
            stepping, earlier, fresh = own
            with torch.no_grad():
                before = self.scheduler.add_noise(mask[stepping] * 2 - 1, noise[stepping], earlier)
                residuals = [one[stepping] for one in encoded.residuals]
                answer = self.unet(torch.cat([pixels[stepping], before], dim=1), earlier, residuals).sample.float()
                noisy[stepping] = ancestral_step(self.scheduler, answer, before, earlier, timesteps[stepping], fresh)
        predicted = self.unet(torch.cat([pixels, noisy], dim=1), timesteps, encoded.residuals).sample
        return PixelStepOutput(predicted, noisy, encoded.logits, encoded.side_logits)


def make_scheduler(settings: PixelSettings) -> DDPMScheduler:
    """DDPM with trailing timesteps, exact from one step on: zero terminal SNR, but for noise prediction.

    Its fresh noise in every step takes away what a step got wrong; DDIM hands it on (docs/irstd_diff.md).

    A shift of the signal-to-noise ratio is that of Hoogeboom et al., arXiv 2301.11093, "Adjusting Noise
    Schedules".
    """
    steps = settings.num_train_timesteps
    betas: dict[str, Any] = {
        "beta_start": 0.1 / steps,
        "beta_end": 20 / steps,
        "beta_schedule": settings.beta_schedule,
    }
    if settings.snr_shift_db:
        kept = DDPMScheduler(steps, **betas).alphas_cumprod.double()  # (T,)
        ratio = kept / (1 - kept) * 10 ** (-settings.snr_shift_db / 10)
        shifted = torch.cat([torch.ones(1, dtype=torch.float64), ratio / (1 + ratio)])
        betas["trained_betas"] = (1 - shifted[1:] / shifted[:-1]).tolist()
    return DDPMScheduler(
        num_train_timesteps=steps,
        **betas,
        prediction_type=settings.prediction_type,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=settings.prediction_type != "epsilon",
        clip_sample=True,
    )


def deeply_supervised(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], output: PixelStepOutput, mask: Tensor, weight: Tensor
) -> Tensor:
    """The loss of the encoder's fused logits plus its mean over the levels' logits."""
    sides = torch.stack([loss(side, mask, weight) for side in output.side_logits])
    return loss(output.logits, mask, weight) + sides.mean()


def training_target(scheduler: DDPMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The denoiser's training target (B, 1, S, S), by the scheduler's prediction type."""
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(clean, noise, timesteps)
    return clean if scheduler.config.prediction_type == "sample" else noise


def signal_and_noise(scheduler: DDPMScheduler, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """The factors (B, 1, 1, 1) of the clean mask and of the noise at timesteps (B,)."""
    kept = scheduler.alphas_cumprod.to(timesteps.device)[timesteps][:, None, None, None]
    return kept.sqrt(), (1 - kept).sqrt()


def ancestral_step(
    scheduler: DDPMScheduler, clean: Tensor, noisy: Tensor, timesteps: Tensor, later: Tensor, fresh: Tensor
) -> Tensor:
    """Where a clean mask predicted at timesteps (B,) leads a noisy one (B, 1, S, S) to at smaller ones (B,).

    A sample of the diffusion's posterior (Ho et al., arXiv 2006.11239, eq. 6 and 7), by standard normal noise `fresh`.
    """
    clean = clean.clamp(-1, 1)
    (signal, noise), (later_signal, later_noise) = (signal_and_noise(scheduler, one) for one in (timesteps, later))
    deviation = later_noise / noise * (1 - (signal / later_signal).square()).sqrt()
    kept = (later_noise.square() - deviation.square()).sqrt()  # of the noise that is there
    return later_signal * clean + kept * (noisy - signal * clean) / noise + deviation * fresh


def clean_estimate(scheduler: DDPMScheduler, predicted: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """The clean mask (B, 1, S, S), about [-1, 1], that a prediction stands for."""
    if scheduler.config.prediction_type == "sample":
        return predicted
    signal, noise = signal_and_noise(scheduler, timesteps)
    if scheduler.config.prediction_type == "epsilon":
        return (noisy - noise * predicted) / signal
    return signal * noisy - noise * predicted


def make_pipeline(settings: PixelSettings) -> IRSTDDiffPipeline:
    """The pretrained pipeline, whose networks and diffusion must be as the settings say, or one of random weights."""
    if settings.pretrained_model_name_or_path is not None:
        pipeline = IRSTDDiffPipeline.from_pretrained(settings.pretrained_model_name_or_path)
        encoder, scheduler = pipeline.conditional_encoder.config, pipeline.scheduler.config
        pretrained = {"use_liw": encoder.use_liw, "use_residuals": bool(encoder.residual_channels)}
        pretrained |= {name: scheduler[name] for name in ("num_train_timesteps", "beta_schedule", "prediction_type")}
        for name, value in pretrained.items():
            if getattr(settings, name) != value:
                raise ValueError(f"`{name}` is {value!r} in the pretrained pipeline, got {getattr(settings, name)!r}")
        if not torch.allclose(pipeline.scheduler.alphas_cumprod, make_scheduler(settings).alphas_cumprod):
            raise ValueError(f"`snr_shift_db` is not {settings.snr_shift_db} in the pretrained pipeline")
        # The calibration belongs to the weights that training changes.
        pipeline.register_to_config(default_num_inference_steps=settings.num_inference_steps, calibration=None)
        return pipeline
    configuration = PIXEL_CONFIGURATIONS[settings.model]
    encoder_arguments = configuration["conditional_encoder"] | {"use_liw": settings.use_liw}
    if not settings.use_residuals:
        encoder_arguments |= {"residual_channels": ()}
    torch.manual_seed(settings.seed)
    return IRSTDDiffPipeline(
        unet=IRSTDUNet2DModel(**configuration["unet"]),
        conditional_encoder=ConditionalEncoder(**encoder_arguments),
        scheduler=make_scheduler(settings),
        default_num_inference_steps=settings.num_inference_steps,
        normalization=PixelTask.normalization,
    )


@torch.no_grad()
def show_map(pipeline: IRSTDDiffPipeline) -> None:
    """Give the denoiser the encoder's map as one more input channel. No prediction changes before training."""
    old = pipeline.unet
    # diffusers passes over what a config says of arguments that stand on its list of defaults.
    shown = {"sees_map": True, "in_channels": old.config.in_channels + 1, "_use_default_values": []}
    grown = IRSTDUNet2DModel.from_config({**old.config, **shown})
    weights = grown.state_dict()
    for key, value in old.state_dict().items():
        if value.shape == weights[key].shape:
            weights[key].copy_(value)
        else:  # the first convolution, whose new inputs come first
            weights[key].zero_()[:, -value.shape[1] :] = value
    pipeline.register_modules(unet=grown)


class PixelTask(DetectorTask):
    """Denoising and the encoder's own masks."""

    settings_class = PixelSettings
    pipeline_class = IRSTDDiffPipeline
    normalization = "robust"

    def __init__(self, settings: PixelSettings, data: TrainingData):
        super().__init__(settings, data, make_pipeline(settings))
        self.pipeline.register_modules(scheduler=make_scheduler(settings))
        self.model = PixelStep(self.pipeline.unet, self.pipeline.conditional_encoder, self.pipeline.scheduler)

    def prepare(self):
        if self.settings.sees_map and not self.pipeline.unet.config.sees_map:
            show_map(self.pipeline)
            self.model.unet = self.pipeline.unet
        self.checkpoint_gradients(self.pipeline.unet, self.pipeline.conditional_encoder)

    def loss(self, model, batch, step, generator):
        settings, scheduler = self.settings, self.pipeline.scheduler
        image, mask, weight = batch["image"], batch["mask"], batch["weight"]
        last = scheduler.config.num_train_timesteps - 1
        uniform = torch.randint(last + 1, (len(image),), generator=generator)
        is_last = torch.rand(len(image), generator=generator) < settings.last_timestep_share
        timesteps = torch.where(is_last, last, uniform)  # (B,)
        noise = torch.randn(mask.shape, generator=generator).to(image, non_blocking=True)  # (B, 1, S, S)
        own: list[torch.Tensor] = []
        if settings.own_state_share:
            share = settings.own_state_share / (1 - settings.last_timestep_share)
            is_own = (torch.rand(len(image), generator=generator) < share) & (timesteps < last)
            way = torch.rand(len(image), generator=generator) * (last - timesteps)  # left to the first timestep
            stepping = is_own.nonzero()[:, 0]
            if len(stepping):
                earlier = (timesteps + 1 + way.long()).clamp(max=last)[stepping]
                own = [stepping, earlier, torch.randn(mask[stepping.to(mask.device)].shape, generator=generator)]
        timesteps, *own = (one.to(image.device, non_blocking=True) for one in (timesteps, *own))
        output = model(image, mask, timesteps, noise, *own)

        predicted = output.predicted.float()
        target = training_target(scheduler, mask * 2 - 1, noise, timesteps)
        clean = clean_estimate(scheduler, predicted, output.noisy.float(), timesteps)
        terms = {
            "diffusion": (weight * (predicted - target).square()).mean(),
            "sample_dice": probability_dice_loss(((clean + 1) / 2).clamp(0, 1), mask, weight),
            "bce": deeply_supervised(bce_loss, output, mask, weight),
            "dice": deeply_supervised(dice_loss, output, mask, weight),
        }
        loss = sum(getattr(settings, f"{name}_weight") * term for name, term in terms.items())
        scores = {"iou": batch_iou(clean, mask), "encoder_iou": batch_iou(output.logits, mask)}
        return loss, terms | scores

    def validate(self) -> Validation:
        """Score the pipeline, and beside it the IoU of the conditional encoder alone."""
        validation = super().validate()
        counts = [
            count_image(self.pipeline(sample.image, num_inference_steps=0).mask[0, 0], sample.mask)
            for sample in self.data.val_samples
        ]
        scores = scores_of_data_sets(self.data, counts)
        validation.scores |= {f"encoder_{name}": value for name, value in scores.items() if name.startswith("iou")}
        return validation


main = PixelTask.main

if __name__ == "__main__":
    main()
