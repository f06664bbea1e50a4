"""The generator's three trainers, from a data set to a pipeline, and a Stable-Diffusion-like base."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from irstd_ldm import GaussianAgnosticPipeline
from irstd_ldm.data.folder import IRSTDFolder, read_stem_list, write_stem_list
from irstd_ldm.models.configurations import GENERATOR_CONFIGURATIONS
from irstd_ldm.pipelines.pipeline_gaussian_agnostic import latent_scale
from irstd_ldm.training import train_controlnet, train_image_unet, train_restoration
from irstd_ldm.training.generator import (
    GeneratorSettings,
    GeneratorTask,
    load_base,
    psnr,
    squeezed_batch,
    validation_batch,
)

NARROW = {
    "restoration": {"downscale": 4, "embed_dim": 8, "depths": (1,), "num_heads": (2,), "window_size": 4},
    "vae": {},
    "unet": {
        "block_out_channels": (8, 8, 16),
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
    },
}


@pytest.fixture(autouse=True)
def narrow_configuration(monkeypatch):
    small = GENERATOR_CONFIGURATIONS["gaussian_agnostic_small"]
    narrow = {part: small[part] | NARROW[part] for part in small}
    monkeypatch.setitem(GENERATOR_CONFIGURATIONS, "gaussian_agnostic_small", narrow)


def flags(settings: dict, **more) -> list[str]:
    values = settings | more
    return [part for name, value in values.items() for part in (f"--{name}", "null" if value is None else str(value))]


@pytest.fixture
def settings(few_steps) -> dict:
    return few_steps | {"max_train_steps": 2, "val_fraction": 0.2, "validation_steps": 2}


def make_stable_diffusion(folder) -> torch.Tensor:
    """A random folder of Stable Diffusion's structure, a few channels wide; returns the empty prompt's embedding."""
    folder.mkdir()
    torch.manual_seed(0)
    vae = {"in_channels": 3, "out_channels": 3, "down_block_types": ("DownEncoderBlock2D",) * 4}
    vae |= {"up_block_types": ("UpDecoderBlock2D",) * 4, "block_out_channels": (8,) * 4, "norm_num_groups": 4}
    AutoencoderKL(**vae).save_pretrained(folder / "vae")
    published = GENERATOR_CONFIGURATIONS["gaussian_agnostic"]["unet"]
    narrow = {"block_out_channels": (8, 8, 16, 16), "attention_head_dim": (2, 2, 4, 4), "norm_num_groups": 4}
    UNet2DConditionModel(**published | narrow | {"cross_attention_dim": 12}).save_pretrained(folder / "unet")
    PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True).save_pretrained(folder / "scheduler")
    text = CLIPTextConfig(
        vocab_size=4, hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=9, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    encoder = CLIPTextModel(text).eval()
    encoder.save_pretrained(folder / "text_encoder")
    words = folder / "words"
    words.mkdir()
    (words / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt")).save_pretrained(folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    tokens = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        return encoder(tokens).last_hidden_state


def test_the_three_trainers_make_a_pipeline(settings, synthetic_root, tmp_path):
    folders = {name: str(tmp_path / name) for name in ("restoration", "image_unet", "pipeline")}
    train_restoration.main(flags(settings, output_dir=folders["restoration"]))
    train_image_unet.main(flags(settings, output_dir=folders["image_unet"], statistics_crops=2))
    base = {"restoration": folders["restoration"], "pretrained_model_name_or_path": folders["image_unet"]}
    train_controlnet.main(flags(settings, output_dir=folders["pipeline"], **base))
    scores = [json.loads(line) for line in (tmp_path / "restoration" / "validation.jsonl").read_text().splitlines()]
    assert {"step", "psnr", "squeezed_psnr"} == set(scores[-1])

    pipeline = GaussianAgnosticPipeline.from_pretrained(folders["pipeline"])
    pipeline.set_progress_bar_config(disable=True)
    sample = IRSTDFolder(synthetic_root, split="train")[0]
    output = pipeline(sample.image, mask=sample.mask, num_inference_steps=2)
    assert output.images[0].shape == sample.image.shape
    stems = [read_stem_list(tmp_path / "pipeline" / f"{name}.txt") for name in ("train", "val")]
    assert sorted(stems[0] + stems[1]) == sorted(read_stem_list(synthetic_root / "train.txt"))

    before = UNet2DConditionModel.from_pretrained(folders["image_unet"], subfolder="unet").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items())  # frozen
    trained = pipeline.controlnet.controlnet_mid_block.weight
    assert trained.any()  # zero convolutions have left zero

    on = {"restoration": folders["pipeline"], "pretrained_model_name_or_path": folders["pipeline"]}
    again = train_controlnet.make_pipeline(train_controlnet.ControlNetSettings(**settings, output_dir="", **on))
    assert torch.equal(again.controlnet.controlnet_mid_block.weight, trained)  # from where it was


def test_a_stable_diffusion_folder_is_a_base(settings, tmp_path):
    expected = make_stable_diffusion(tmp_path / "sd")
    base = load_base(str(tmp_path / "sd"))
    torch.testing.assert_close(base["prompt_embedding"](2), expected.expand(2, -1, -1))
    train_restoration.main(flags(settings, output_dir=str(tmp_path / "restoration")))
    names = {"restoration": str(tmp_path / "restoration"), "pretrained_model_name_or_path": str(tmp_path / "sd")}
    train_controlnet.main(flags(settings, output_dir=str(tmp_path / "pipeline"), **names))
    pipeline = GaussianAgnosticPipeline.from_pretrained(tmp_path / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.vae.config.in_channels == 3 and latent_scale(pipeline.vae) == 8
    image = np.random.default_rng(0).integers(0, 255, (70, 50), dtype=np.uint8)
    assert pipeline(image, num_inference_steps=2).images[0].shape == (70, 50)


def test_the_untrained_control_branch_is_silent(settings, tmp_path):
    make_stable_diffusion(tmp_path / "sd")
    train_restoration.main(flags(settings, output_dir=str(tmp_path / "restoration"), max_train_steps=1))
    names = {"restoration": str(tmp_path / "restoration"), "pretrained_model_name_or_path": str(tmp_path / "sd")}
    made = train_controlnet.ControlNetSettings(**settings, output_dir="", **names)
    pipeline = train_controlnet.make_pipeline(made)
    latents, hint = torch.randn(2, 1, 4, 8, 8)
    with torch.no_grad():
        controlled = pipeline.predict_noise(latents, hint, torch.tensor(300))
        alone = pipeline.unet(latents, torch.tensor(300), pipeline.prompt_embedding(1)).sample
    assert torch.equal(controlled, alone)


def test_the_published_size_has_a_pretrained_base(settings):
    with pytest.raises(ValueError, match="`model` must be .*gaussian_agnostic_small"):
        train_image_unet.ImageUNetSettings(**settings, output_dir="", model="gaussian_agnostic")


def test_a_control_trainer_needs_a_base(settings):
    with pytest.raises(ValueError, match="`pretrained_model_name_or_path` must name"):
        train_controlnet.ControlNetSettings(**settings, output_dir="", restoration="x")


def test_parts_that_start_at_random_take_no_start(settings):
    with pytest.raises(ValueError, match="`pretrained_model_name_or_path` must be null, got runs/x"):
        GeneratorSettings(**settings, output_dir="", pretrained_model_name_or_path="runs/x")


def test_stage_one_learns_the_same_with_less_memory(settings, tmp_path):
    gradients = []
    for less_memory in (False, True):
        made = train_restoration.RestorationSettings(**settings, output_dir="", gradient_checkpointing=less_memory)
        task = train_restoration.RestorationTask(made, GeneratorTask.read_data(made))
        torch.nn.init.normal_(task.model.swin.upsample.conv.weight, generator=torch.Generator().manual_seed(0))
        task.model.train()
        image = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        task.loss(task.model, {"image": image}, 0, torch.Generator().manual_seed(0))[0].backward()
        gradients.append([parameter.grad for parameter in task.model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_test_images_never_enter_generator_training(settings, synthetic_root, tmp_path):
    stems = read_stem_list(synthetic_root / "train.txt")
    write_stem_list(tmp_path / "train.list", stems[:12])
    made = GeneratorSettings(**settings, output_dir="", train_list=str(tmp_path / "train.list"))
    data = GeneratorTask.read_data(made)
    assert sorted(data.lists["train"] + data.lists["val"]) == sorted(stems[:12])
    write_stem_list(synthetic_root / "test.txt", stems[11:])
    try:
        with pytest.raises(ValueError, match=f"must hold no image of a test list, got 1, such as {stems[11]}"):
            GeneratorTask.read_data(made)
    finally:
        (synthetic_root / "test.txt").unlink()


def test_the_recipes_lists_share_no_image_with_nuaas_test_list(nuaa_root, settings):
    made = GeneratorSettings(**settings | {"train_data_dir": str(nuaa_root), "val_fraction": 0.0}, output_dir="")
    data = GeneratorTask.read_data(made)
    assert set(data.lists["train"]).isdisjoint(IRSTDFolder(nuaa_root, split="test").stems)
    assert len(data.lists["train"]) == 213


def test_perturbed_noise_is_seen_and_not_predicted(settings, tmp_path):
    made = train_image_unet.ImageUNetSettings(**settings, output_dir="", input_perturbation=0.5, statistics_crops=4)
    task = train_image_unet.ImageUNetTask(made, GeneratorTask.read_data(made))
    seen = []

    def denoiser(image, timesteps, noise):
        seen.append(noise)
        return torch.zeros_like(noise)

    image = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    loss, _ = task.loss(denoiser, {"image": image}, 0, torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(1, rel=0.05)  # the variance of what is asked for
    assert seen[0].var().item() == pytest.approx(1.25, rel=0.05)


def test_psnr_by_hand():
    image = torch.zeros(2, 1, 4, 4)
    assert psnr(image + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1), image) == pytest.approx(30.0, abs=1e-4)


def test_squeezed_batch_draws_a_quantiser_per_image():
    image = torch.rand(1, 1, 32, 32).repeat(3, 1, 1, 1)
    squeezed = squeezed_batch(image, torch.Generator().manual_seed(0))
    assert squeezed.shape == image.shape
    assert not torch.equal(squeezed[0], squeezed[1])
    assert all(len(one.unique()) <= 27 for one in squeezed)


def test_validation_batch_is_the_middle_of_each_image(synthetic_root):
    samples = IRSTDFolder(synthetic_root, split="train")[:2]
    batch = validation_batch(samples)
    assert batch.shape == (2, 1, 128, 128)
    np.testing.assert_allclose(batch[0, 0].numpy(), samples[0].image / 255, atol=1e-6)


def test_published_sizes():
    """Stable Diffusion 2.1's VAE and denoiser and the control branch: as published; stage 1 within 4 % of SwinIR."""
    published = GENERATOR_CONFIGURATIONS["gaussian_agnostic"]
    with torch.device("meta"):
        vae, unet = AutoencoderKL(**published["vae"]), UNet2DConditionModel(**published["unet"])
        control = ControlNetModel(
            block_out_channels=(320, 640, 1280, 1280), attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024,
            use_linear_projection=True, conditioning_channels=4, conditioning_embedding_out_channels=(320,),
        )  # fmt: skip
        restoration = train_restoration.IRSTDRestorationModel(**published["restoration"])
    millions = [sum(p.numel() for p in model.parameters()) / 1e6 for model in (vae, unet, control, restoration)]
    assert millions[:3] == pytest.approx([83.65, 865.91, 364.08], abs=0.01)
    assert millions[3] == pytest.approx(15.79, rel=0.04)
