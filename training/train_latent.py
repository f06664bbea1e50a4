"""Train the latent detector: denoiser, image encoder and image-fed mask decoder together, the second stage of LGLDNet.

    accelerate launch training/train_latent.py --config training/recipes/lgldnet_small_latent.yaml \
        --train_data_dir DATA --mask_vae runs/mask_vae --output_dir runs/latent
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import DDIMScheduler
from torch import nn

from irstd_ldm.data.crops import setting
from irstd_ldm.models.blocks import TokenPooling
from irstd_ldm.models.configurations import CONFIGURATIONS
from irstd_ldm.models.frequency import ChannelAttention
from irstd_ldm.models.image_encoder import IRSTDImageEncoder
from irstd_ldm.models.mask_vae import MaskAutoencoderKL
from irstd_ldm.models.unet import IRSTDUNet2DConditionModel
from irstd_ldm.pipelines.pipeline_irstd_latent import IRSTDLatentPipeline
from irstd_ldm.training import losses
from irstd_ldm.training.detectors import DetectorTask
from irstd_ldm.training.settings import DetectorSettings
from irstd_ldm.training.training_data import TrainingData

NORMALIZATION = "robust"  # rule of a detector from random weights; a pretrained one keeps its own
# Default tiles in pixels. Statistics and attention of a whole map want tiles of the size of the crops; without them
# frames of 640x512 and of 1280x1024 are one tile, which takes some 300 MiB of a process in onnxruntime.
TILE_SIZES = {"group": 256, "batch": 1280}


@dataclass(kw_only=True)
class LatentSettings(DetectorSettings):
    """Settings of the latent detector's trainer."""

    start_settings: ClassVar[tuple[str, ...]] = ("pretrained_model_name_or_path", "mask_vae")

    mask_vae: str | None = setting(None, "Folder that train_mask_vae wrote, for random weights.", is_path=True)
    use_fae: bool = setting(True, "FAE where the configuration has it, in the encoder and on the denoiser's skips.")
    use_liw: bool = setting(True, "LIW on the denoiser's conditioning feature.")
    posterior_weight: float = setting(1.0, "Weight of smooth L1 on the posterior variables.")
    klda_weight: float = setting(0.01, "Weight of KLDA, reached by linear warm-up.")
    klda_warmup_steps: int = setting(1000, "Steps over which KLDA's weight grows from 0.")
    bce_weight: float = setting(5.0, "Weight of the binary cross-entropy.")
    background_weight: float = setting(1.0, "Factor in it on pixels away from targets; above 1 = fewer false alarms.")
    dice_weight: float = setting(1.0, "Weight of the Dice loss.")
    uniform_timesteps: int = setting(4, "Crops per batch that are denoised once more, at a uniform timestep.")
    feature_dropout: float = setting(0.1, "Share of the crops' feature levels that the decoder does not see.")
    min_context: float = setting(
        1.0,
        "Channel attention and tokens gather from a part of the crop whose sides are at least this share of its.",
        at_least=0.0,
        later=True,
    )


class LatentStep(nn.Module):
    """One training step's forward pass through the three networks.

    Every crop is denoised from pure noise, the case of one-step inference, and its mask decoded; the first few are
    denoised again at the timesteps given, which teaches the steps after the first.
    """

    def __init__(self, pipeline: IRSTDLatentPipeline):
        super().__init__()
        self.vae, self.unet, self.image_encoder = pipeline.vae, pipeline.unet, pipeline.image_encoder
        self.scheduler = pipeline.scheduler
        self.vae.encoder.requires_grad_(False)
        self.vae.quant_conv.requires_grad_(False)

    def train(self, mode: bool = True):
        """Sets the mode as `nn.Module.train` does, but the frozen mask encoder keeps its batch statistics."""
        super().train(mode)
        self.vae.encoder.eval()
        return self

    def forward(self, image, mask, timesteps, noise, sample_noise, keep_features):
        """Predicted and true posterior variables (K, 8, h, w), and mask logits (B, 1, S, S) out of pure noise."""
        with torch.no_grad():
            posterior = self.vae.encode(mask * 2 - 1).latent_dist
            variables = self.vae.posterior_to_variables(posterior)  # (B, 8, h, w)
        again = len(timesteps) - len(image)
        variables = torch.cat([variables, variables[:again]])  # (K, 8, h, w)
        noisy = self.scheduler.add_noise(variables, noise, timesteps)
        encoded = self.image_encoder(image)
        image_latent = torch.cat([encoded.image_latent, encoded.image_latent[:again]])
        tokens = torch.cat([encoded.tokens, encoded.tokens[:again]])
        predicted = self.unet(torch.cat([noisy, image_latent], dim=1), timesteps, tokens).sample
        from_noise = self.vae.variables_to_posterior(predicted[: len(image)].float())
        z = from_noise.mean + from_noise.std * sample_noise  # (B, 4, h, w)
        features = [x * keep.to(x.dtype) for x, keep in zip(encoded.features, keep_features, strict=True)]
        logits = self.vae.decode(z.to(image.dtype), image_features=features).sample
        return predicted, variables, logits


def vary_context(encoder: nn.Module, context: torch.Tensor) -> None:
    """Makes channel attention and tokens gather, in training, from a part of their map.

    A tile of another size than the crops then gives a target the same probability more often.

    Args:
        encoder: The image encoder, whose modules get a hook.
        context: (4,) in [0, 1], read anew in every call: height and width of the part as shares of the map's, then
            top and left as shares of what these leave.
    """

    def part(module, inputs):
        (x,) = inputs  # (B, C, h, w)
        if not module.training:
            return None
        size = [max(round(extent * share), 1) for extent, share in zip(x.shape[2:], context[:2].tolist(), strict=True)]
        top, left = (
            round((extent - side) * share)
            for extent, side, share in zip(x.shape[2:], size, context[2:].tolist(), strict=True)
        )
        return x[..., top : top + size[0], left : left + size[1]]

    for module in encoder.modules():
        if isinstance(module, ChannelAttention):
            module.excite.register_forward_pre_hook(part)
        elif isinstance(module, TokenPooling):
            module.register_forward_pre_hook(part)


def make_scheduler() -> DDIMScheduler:
    """DDIM that is exact from one step on: clean-sample prediction, trailing timesteps, zero terminal SNR."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
    )


def make_pipeline(settings: LatentSettings) -> IRSTDLatentPipeline:
    """The pretrained pipeline, or one with random weights around the trained Mask-VAE's encoder; either must fit."""
    if settings.pretrained_model_name_or_path is not None:
        pipeline = IRSTDLatentPipeline.from_pretrained(settings.pretrained_model_name_or_path)
        if settings.mask_vae is not None:
            raise ValueError("`mask_vae` and `pretrained_model_name_or_path` exclude each other, got both")
        has_fae = any(pipeline.image_encoder.config.frequency_attention)
        for name, value in {"use_fae": has_fae, "use_liw": pipeline.unet.config.use_liw}.items():
            if getattr(settings, name) != value:
                raise ValueError(f"`{name}` is not {getattr(settings, name)} in the pretrained pipeline")
        pipeline.register_to_config(calibration=None)  # it belongs to the weights that training changes
        return pipeline
    if settings.mask_vae is None:
        raise ValueError("`mask_vae` or `pretrained_model_name_or_path` must be set, got neither")
    if not (Path(settings.mask_vae) / "vae").is_dir():
        raise ValueError(f"`mask_vae` must be a folder that train_mask_vae wrote, with vae/; got {settings.mask_vae}")
    configuration = CONFIGURATIONS[settings.model]
    stage1 = MaskAutoencoderKL.from_pretrained(settings.mask_vae, subfolder="vae")
    for name, value in configuration["vae"].items():
        if stage1.config[name] != (list(value) if isinstance(value, tuple) else value):
            raise ValueError(
                f"`mask_vae` must be of the configuration {settings.model}, where `{name}` is {value}; it is "
                f"{stage1.config[name]} in {settings.mask_vae}"
            )
    torch.manual_seed(settings.seed)
    vae = MaskAutoencoderKL.from_config({**stage1.config, **configuration["image_features"]})
    vae.encoder.load_state_dict(stage1.encoder.state_dict())
    vae.quant_conv.load_state_dict(stage1.quant_conv.state_dict())
    encoder_arguments = dict(configuration["image_encoder"])
    unet_arguments = {**configuration["unet"], "use_liw": settings.use_liw}
    if not settings.use_fae:
        encoder_arguments["frequency_attention"] = (False,) * len(encoder_arguments["block_out_channels"])
        unet_arguments["use_fae"] = False
    return IRSTDLatentPipeline(
        vae=vae,
        unet=IRSTDUNet2DConditionModel(**unet_arguments),
        image_encoder=IRSTDImageEncoder(**encoder_arguments),
        scheduler=make_scheduler(),
        default_tile_size=TILE_SIZES[configuration["vae"].get("norm_type", "group")],
        normalization=NORMALIZATION,
    )


class LatentTask(DetectorTask):
    """Posterior prediction, KLDA and the decoded mask."""

    settings_class = LatentSettings
    pipeline_class = IRSTDLatentPipeline
    normalization = NORMALIZATION

    def __init__(self, settings: LatentSettings, data: TrainingData):
        super().__init__(settings, data, make_pipeline(settings))
        self.model = LatentStep(self.pipeline)
        self.context = torch.zeros(4)  # height, width, top and left of the step's part, shares of what there is

    def prepare(self):
        self.checkpoint_gradients(self.pipeline.vae, self.pipeline.unet, self.pipeline.image_encoder)
        if self.settings.min_context < 1:
            vary_context(self.pipeline.image_encoder, self.context)

    def loss(self, model, batch, step, generator):
        settings, vae = self.settings, self.pipeline.vae
        image, mask = batch["image"], batch["mask"]
        latent_size = (mask.shape[-2] // 8, mask.shape[-1] // 8)  # (h, w)
        latent_channels = vae.config.latent_channels
        levels = len(vae.config.block_out_channels)
        last = self.pipeline.scheduler.config.num_train_timesteps - 1
        again = min(settings.uniform_timesteps, len(image))
        uniform = torch.randint(last + 1, (again,), generator=generator)
        timesteps = torch.cat([torch.full((len(image),), last), uniform])  # (K,), K = B + those denoised once more
        noise = torch.randn(len(timesteps), 2 * latent_channels, *latent_size, generator=generator)  # (K, 8, h, w)
        sample_noise = torch.randn(len(image), latent_channels, *latent_size, generator=generator)
        kept = torch.rand(levels, len(image), 1, 1, 1, generator=generator) >= settings.feature_dropout
        if settings.min_context < 1:
            self.context.copy_(torch.rand(4, generator=generator))
            self.context[:2] = settings.min_context + (1 - settings.min_context) * self.context[:2]
        timesteps = timesteps.to(image.device, non_blocking=True)
        drawn = [tensor.to(image, non_blocking=True) for tensor in (noise, sample_noise, kept)]
        predicted, variables, logits = model(image, mask, timesteps, *drawn)

        posterior, true_posterior = (
            vae.variables_to_posterior(predicted.float()),
            vae.variables_to_posterior(variables),
        )
        weight = bce_weight = batch["weight"]
        if settings.background_weight != 1:
            bce_weight = weight * losses.background_weights(mask, settings.background_weight)
        terms = {
            "posterior": losses.posterior_loss(predicted, variables),
            "klda": losses.klda_loss(posterior, true_posterior, vae.config.klda_min_logvar),
            "bce": losses.bce_loss(logits, mask, bce_weight),
            "dice": losses.dice_loss(logits, mask, weight),
        }
        factors = {name: getattr(settings, f"{name}_weight") for name in terms}
        factors["klda"] *= min(1.0, step / max(settings.klda_warmup_steps, 1))
        loss = sum(factors[name] * term for name, term in terms.items())
        return loss, {**terms, "iou": losses.batch_iou(logits, mask)}


main = LatentTask.main

if __name__ == "__main__":
    main()
