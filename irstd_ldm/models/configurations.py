"""The published and bundled sizes of the detectors and the generator, as arguments of their networks."""

from typing import Any

# Arguments of the latent detector's three networks.
CONFIGURATIONS: dict[str, dict[str, dict[str, Any]]] = {
    # LGLDNet's size: image encoder 1.80 M, denoiser 40.4 M, decoder 2.70 M parameters (as released: 1.80, 41.4 and
    # 2.71 M). The lowest level of the denoiser has no attention: at 256x256 it holds 2x2 positions.
    "lgldnet": {
        "vae": {
            "block_out_channels": (16, 32, 64, 128),
            "encoder_layers_per_block": (2, 2, 3, 3),
            "decoder_layers_per_block": (3, 3, 4, 4),
            "norm_num_groups": 8,
            "stem": "conv",
        },
        "image_encoder": {
            "block_out_channels": (16, 32, 64, 128),
            "layers_per_block": (2, 2, 3, 3),
            "num_attention_heads": 1,
            "norm_num_groups": 8,
            "frequency_attention": (True, True, True, True),
            "stem": "conv",
        },
        "unet": {
            "in_channels": 12,
            "out_channels": 8,
            "block_out_channels": (64, 128, 128, 256, 256),
            "layers_per_block": 2,
            "down_block_types": ("CrossAttnDownBlock2D",) * 4 + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 4,
            "attention_head_dim": 8,
            "cross_attention_dim": 128,
            "norm_num_groups": 32,
            "resnet_time_scale_shift": "scale_shift",
        },
        "image_features": {"image_feature_channels": (16, 32, 64, 128)},
    },
    # Made for a processor (docs/detector.md): blocks whose normalisation folds away, few channels at full resolution,
    # one level of denoiser at 1/8, attention by 32 pooled tokens, FAE and LIW where the map is small. The decoder sees
    # the image's features down to 1/4 alone: what lies deeper reaches it through the posterior.
    "lgldnet_small": {
        "vae": {
            "block_out_channels": (8, 16, 32, 64),
            "encoder_layers_per_block": (1, 1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1, 0),
            "norm_type": "batch",
            "stem": "conv",
        },
        "image_encoder": {
            "latent_channels": 32,
            "block_out_channels": (8, 16, 32, 64),
            "layers_per_block": (1, 1, 1, 1),
            "num_attention_heads": 4,
            "frequency_attention": (False, False, False, True),
            "norm_type": "batch",
            "stem": "conv",
        },
        "unet": {
            "in_channels": 40,
            "out_channels": 8,
            "block_out_channels": (64,),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",),
            "mid_block_type": None,
            "attention_head_dim": 1,
            "cross_attention_dim": 64,
            "condition_channels": 32,
            "norm_num_groups": 16,
            "norm_type": "batch",
            "use_fae": False,
        },
        "image_features": {"image_feature_channels": (8, 16, 32, 0)},
    },
}

# The pixel detector's two networks. `residual_channels` are those of the denoiser's skip tensors, level by level.
PIXEL_CONFIGURATIONS: dict[str, dict[str, dict[str, Any]]] = {
    # IRSTD-Diff's size: conditional encoder 9.83 M, denoiser 20,182,209 parameters, as published. Image and mask in
    # four channels as there: the gray image fills three.
    "irstd_diff": {
        "conditional_encoder": {
            "in_channels": 3,
            "block_out_channels": (64, 64, 128, 256, 256, 256),
            "mid_channels": (16, 16, 32, 32, 32, 64),
            "decoder_mid_channels": (16, 16, 32, 32, 64),
            "heights": (7, 6, 5, 4, 0, 0),
            "residual_channels": ((64, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)),
            "stem": "conv",
        },
        "unet": {
            "sample_size": 256,
            "in_channels": 4,
            "out_channels": 1,
            "block_out_channels": (64, 64, 128, 128, 256, 256),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
            "attention_head_dim": 64,
            "attn_norm_num_groups": 32,
            "norm_num_groups": 32,
            "resnet_time_scale_shift": "scale_shift",
            "stem": "conv",
        },
    },
    # Haar stems and heads, fewer stages; the denoiser has three levels without attention: what it has to know of the
    # surroundings comes with the residuals.
    "irstd_diff_small": {
        "conditional_encoder": {
            "in_channels": 1,
            "block_out_channels": (16, 32, 64, 64, 64),
            "mid_channels": (16, 16, 16, 16, 32),
            "decoder_mid_channels": (16, 16, 16, 16),
            "heights": (6, 5, 4, 0, 0),
            "residual_channels": ((16, 16), (16, 32), (32, 64)),
            "stem": "haar",
        },
        "unet": {
            "sample_size": 256,
            "in_channels": 2,
            "out_channels": 1,
            "block_out_channels": (16, 32, 64),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D",) * 3,
            "up_block_types": ("UpBlock2D",) * 3,
            "add_attention": False,
            "norm_num_groups": 8,
            "resnet_time_scale_shift": "scale_shift",
            "stem": "haar",
        },
    },
}

# The Gaussian-agnostic engine's networks: stage 1, the image VAE and the base denoiser; the control branch of stage 2
# follows from the denoiser.
GENERATOR_CONFIGURATIONS: dict[str, dict[str, dict[str, Any]]] = {
    # The published size: Stable Diffusion 2.1's VAE (83.7 M) and denoiser (865.9 M). Stage 1 in SwinIR's published
    # shape has 16.3 M parameters with Swin2SR's attention (15.8 M there).
    "gaussian_agnostic": {
        "restoration": {
            "downscale": 8,
            "embed_dim": 180,
            "depths": (6,) * 8,
            "num_heads": (6,) * 8,
            "window_size": 8,
            "mlp_ratio": 2.0,
        },
        "vae": {
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "block_out_channels": (128, 256, 512, 512),
            "layers_per_block": 2,
            "latent_channels": 4,
            "sample_size": 512,
        },
        "unet": {
            "sample_size": 64,
            "block_out_channels": (320, 640, 1280, 1280),
            "attention_head_dim": (5, 10, 20, 20),
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
        },
    },
    "gaussian_agnostic_small": {
        "restoration": {
            "downscale": 4,
            "embed_dim": 48,
            "depths": (4, 4),
            "num_heads": (4, 4),
            "window_size": 8,
            "mlp_ratio": 2.0,
        },
        "vae": {"levels": 2},
        "unet": {
            "sample_size": 32,
            "in_channels": 16,
            "out_channels": 16,
            "block_out_channels": (64, 64, 96),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
            "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
            "attention_head_dim": 4,
            "cross_attention_dim": 32,
            "norm_num_groups": 16,
        },
    },
}
