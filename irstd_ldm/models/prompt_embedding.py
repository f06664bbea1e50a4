"""The cached embedding of the empty prompt, in place of a text encoder."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from .blocks import SafetensorsOnlyMixin


class PromptEmbedding(SafetensorsOnlyMixin, ModelMixin, ConfigMixin):
    """A text encoder's output for the empty prompt, (1, L, D); zeros where a denoiser was trained without text.

    Args:
        num_tokens: L.
        embedding_dim: D, the denoiser's `cross_attention_dim`.
    """

    @register_to_config
    def __init__(self, num_tokens: int = 1, embedding_dim: int = 32):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(1, num_tokens, embedding_dim), requires_grad=False)

    def forward(self, batch_size: int) -> torch.Tensor:
        """The embedding for a batch, (B, L, D)."""
        return self.embedding.expand(batch_size, -1, -1)
