import math

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.distributions import Normal, kl_divergence

from irstd_ldm.training.losses import background_weights, bce_loss, dice_loss, kl_loss, klda_loss, posterior_loss


def gaussian(mean, logvar):
    return DiagonalGaussianDistribution(torch.cat([mean, logvar], dim=1))


def random_gaussian(seed):
    generator = torch.Generator().manual_seed(seed)
    return gaussian(*torch.randn(2, 2, 4, 3, 5, generator=generator))


def as_normal(posterior):
    return Normal(posterior.mean, posterior.std)


def test_dice_of_two_by_two_pixels():
    logits = torch.tensor([[[[0.0, math.log(3)], [0.0, -math.log(3)]]]])  # probabilities 0.5, 0.75, 0.5, 0.25
    mask = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert dice_loss(logits, mask).item() == pytest.approx(1 - (2 * 1.0 + 1) / (2.0 + 2.0 + 1))


def test_dice_pools_the_batch():
    mask = torch.zeros(2, 1, 2, 2)
    mask[0, 0, 0, 0] = 1
    logits = torch.full((2, 1, 2, 2), -1e4)
    logits[0, 0, 0, 0] = logits[1, 0, 1, 1] = 1e4  # one hit, one false alarm in the empty image
    assert dice_loss(logits, mask).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 1 + 1))


def test_dice_of_an_empty_batch_grows_with_its_false_alarms():
    empty = torch.zeros(1, 1, 4, 4)
    assert dice_loss(torch.full((1, 1, 4, 4), -1e4), empty).item() == 0
    assert dice_loss(torch.full((1, 1, 4, 4), 1e4), empty).item() == pytest.approx(1 - 1 / 17)


def test_pixels_of_weight_0_do_not_count():
    logits = torch.tensor([[[[0.0, 0.0], [1e4, -1e4]]]])
    mask = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    weight = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    assert dice_loss(logits, mask, weight).item() == pytest.approx(1 - (2 * 0.5 + 1) / (1.0 + 1.0 + 1))
    assert bce_loss(logits, mask, weight).item() == pytest.approx(2 * math.log(2) / 4)
    assert dice_loss(logits, mask, torch.ones_like(mask)) == dice_loss(logits, mask)


def test_bce_by_hand():
    logits = torch.tensor([[[[0.0, math.log(3)]]]])
    mask = torch.tensor([[[[1.0, 0.0]]]])
    assert bce_loss(logits, mask).item() == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_bce_weighs_pixels_away_from_targets():
    mask = torch.zeros(2, 1, 24, 30)
    mask[0, 0, 10, 12] = 1
    logits = torch.randn(2, 1, 24, 30, generator=torch.Generator().manual_seed(0))
    weight = torch.full_like(mask, 3.0)
    weight[0, 0, 2:19, 4:21] = 1.0
    per_pixel = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    torch.testing.assert_close(background_weights(mask, 3.0), weight)
    assert bce_loss(logits, mask, weight).item() == pytest.approx((weight * per_pixel).mean().item(), 1e-5)
    assert bce_loss(logits, mask, background_weights(mask, 1.0)) == bce_loss(logits, mask)


def test_mask_losses_stay_finite_at_extreme_logits_and_in_half_precision():
    mask = torch.tensor([[[[1.0, 0.0]]]])
    wrong = torch.tensor([[[[-6e4, 6e4]]]]).half()
    assert bce_loss(wrong, mask).item() == pytest.approx(6e4, rel=1e-2)
    assert dice_loss(wrong, mask).item() == pytest.approx(1 - 1 / 3)


@pytest.mark.parametrize("loss", [bce_loss, dice_loss])
def test_better_masks_cost_less(loss):
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 2:4, 2:4] = 1
    right, unsure, wrong = (4 * mask - 2, torch.zeros_like(mask), 2 - 4 * mask)
    assert loss(right, mask) < loss(unsure, mask) < loss(wrong, mask)


def test_kl_to_the_standard_normal():
    posterior = random_gaussian(0)
    standard = Normal(torch.zeros(()), torch.ones(()))
    expected = kl_divergence(as_normal(posterior), standard).mean().item()
    assert kl_loss(posterior).item() == pytest.approx(expected, 1e-5)
    assert kl_loss(gaussian(torch.zeros(2, 4, 3, 5), torch.zeros(2, 4, 3, 5))).item() == 0


def test_klda_is_the_divergence_of_the_predicted_from_the_true_posterior():
    predicted, true = random_gaussian(1), random_gaussian(2)
    expected = kl_divergence(as_normal(predicted), as_normal(true)).mean().item()
    reverse = kl_divergence(as_normal(true), as_normal(predicted)).mean().item()
    assert klda_loss(predicted, true, min_logvar=-30).item() == pytest.approx(expected, 1e-5)
    assert abs(expected - reverse) > 0.01  # the order of the arguments is visible
    assert klda_loss(true, true, min_logvar=-30).item() == pytest.approx(0, abs=1e-6)


def test_klda_clamps_both_log_variances():
    mean = torch.zeros(1, 1, 1, 2)
    certain = gaussian(mean, torch.tensor([[[[-20.0, -25.0]]]]))
    shifted = gaussian(mean + 0.1, torch.tensor([[[[-20.0, -4.0]]]]))
    first = 0.5 * 0.01 / math.exp(-6)  # both log-variances become -6
    second = 0.5 * (-6 + 4 + (math.exp(-4) + 0.01) / math.exp(-6) - 1)
    assert klda_loss(shifted, certain, min_logvar=-6).item() == pytest.approx((first + second) / 2, 1e-5)


def test_klda_grows_with_the_distance_of_the_means():
    true = random_gaussian(3)
    losses = [klda_loss(gaussian(true.mean + d, true.logvar), true, -6).item() for d in (0.0, 0.5, 2.0)]
    assert losses == sorted(losses) and losses[0] < 1e-6 < losses[1]


def test_posterior_loss_is_quadratic_near_and_linear_far():
    variables = torch.zeros(1, 2, 1, 1)
    predicted = torch.tensor([0.5, 3.0]).reshape(1, 2, 1, 1)
    assert posterior_loss(predicted, variables).item() == pytest.approx((0.5 * 0.25 + (3 - 0.5)) / 2)
    assert posterior_loss(predicted.half(), variables).dtype == torch.float32
