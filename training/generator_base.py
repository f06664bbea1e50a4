"""The frozen base of stage 2: any Stable-Diffusion-like folder or Hub repository, or our own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from ..models.prompt_embedding import PromptEmbedding


@dataclass(frozen=True)
class GeneratorBase:
    """A latent diffusion model of images and what it cross-attends to."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    prompt_embedding: PromptEmbedding
    scheduler: DDPMScheduler


def load_base(name_or_path: str) -> GeneratorBase:
    """Load `vae`, `unet`, `scheduler` and, where the model index names a text encoder, the empty prompt's embedding.

    Raises:
        OSError: A component is missing or has no safetensors weights.
        ValueError: The denoiser does not fit the VAE's latents, or does not predict noise.
    """
    parts: dict[str, Any] = {"pretrained_model_name_or_path": name_or_path}
    vae = AutoencoderKL.from_pretrained(**parts, subfolder="vae", use_safetensors=True)
    unet = UNet2DConditionModel.from_pretrained(**parts, subfolder="unet", use_safetensors=True)
    scheduler = DDPMScheduler.from_pretrained(**parts, subfolder="scheduler")
    if unet.config.in_channels != vae.config.latent_channels:
        raise ValueError(
            f"the denoiser of `{name_or_path}` takes {unet.config.in_channels} channels, "
            f"its VAE's latents have {vae.config.latent_channels}"
        )
    predicted = scheduler.config.prediction_type
    if predicted != "epsilon":
        raise ValueError(f"the denoiser of `{name_or_path}` must predict noise (epsilon), got {predicted}")
    if has_text_encoder(name_or_path):
        embedding = empty_prompt(name_or_path)
    else:
        embedding = torch.zeros(1, 1, unet.config.cross_attention_dim)
    prompt_embedding = PromptEmbedding(*embedding.shape[1:])
    prompt_embedding.embedding.data.copy_(embedding)
    return GeneratorBase(vae, unet, prompt_embedding, scheduler)


def has_text_encoder(name_or_path: str) -> bool:
    """Whether the folder or repository has a model index that names a text encoder."""
    if Path(name_or_path).is_dir() and not (Path(name_or_path) / DiffusionPipeline.config_name).is_file():
        return False
    return DiffusionPipeline.load_config(name_or_path).get("text_encoder", [None])[0] is not None


@torch.no_grad()
def empty_prompt(name_or_path: str) -> torch.Tensor:
    """The text encoder's last hidden states for the empty prompt, (1, L, D), computed once."""
    tokenizer = CLIPTokenizer.from_pretrained(name_or_path, subfolder="tokenizer")
    encoder = CLIPTextModel.from_pretrained(name_or_path, subfolder="text_encoder", use_safetensors=True)
    tokens = tokenizer(
        "", padding="max_length", max_length=encoder.config.max_position_embeddings, return_tensors="pt"
    )
    return encoder(tokens.input_ids).last_hidden_state
