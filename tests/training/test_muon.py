import copy

import pytest
import torch
from torch import nn

from irstd_ldm.training.muon import UPDATE_RMS, Muon, orthogonalize

RATES = {"lr": 1e-2, "weight_decay": 0.1}


def set_gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 72), (2, 72, 8)])
def test_matrices_become_semi_orthogonal_with_their_own_singular_vectors(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalize(1e3 * matrices)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    values = u.mT @ found @ vh.mT
    diagonal = values.diagonal(dim1=1, dim2=2)
    assert 0.65 < diagonal.min() and diagonal.max() < 1.25
    assert (values - torch.diag_embed(diagonal)).abs().max() < 1e-3


def test_a_matrix_moves_as_by_torchs_own_muon():
    """An independent implementation, which iterates in bfloat16."""
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(16, 40))
    theirs = nn.Parameter(ours.detach().clone())
    first = ours.detach().clone()
    optimizer = Muon([ours], **RATES)
    other = torch.optim.Muon(
        [theirs], lr=RATES["lr"] * UPDATE_RMS / 0.2, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
    )
    for seed in range(5):
        set_gradients([ours], seed)
        theirs.grad = ours.grad.clone()
        optimizer.step()
        other.step()
    moved = (ours - first).norm()
    assert (ours - theirs).norm() < 0.03 * moved


def test_a_convolution_is_a_matrix_and_a_vector_is_adamws():
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 1, 3))
    matrix = nn.Parameter(network[0].weight.detach().flatten(1).clone())
    reference = copy.deepcopy(network)
    network = network.to(memory_format=torch.channels_last)
    set_gradients(network.parameters(), 0)
    for parameter, same in zip(network.parameters(), reference.parameters(), strict=True):
        same.grad = parameter.grad.clone()
    matrix.grad = network[0].weight.grad.flatten(1).clone()
    Muon(network.parameters(), **RATES).step()
    Muon([matrix], **RATES).step()
    torch.optim.AdamW(reference.parameters(), **RATES).step()

    torch.testing.assert_close(network[0].weight.detach().flatten(1), matrix.detach())
    expected, found = dict(reference.named_parameters()), dict(network.named_parameters())
    for name in ("0.bias", "1.weight", "1.bias", "2.weight", "2.bias"):  # one output is a vector too
        torch.testing.assert_close(found[name], expected[name])
    assert not torch.allclose(found["0.weight"], expected["0.weight"])


def test_an_update_has_its_size_whatever_the_gradients():
    for scale in (1e-6, 1.0, 1e6):
        weight = nn.Parameter(torch.zeros(16, 8, 3, 3))
        weight.grad = scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        Muon([weight], lr=1e-2, weight_decay=0.0).step()
        rms = weight.detach().square().mean().sqrt().item()
        assert rms == pytest.approx(1e-2 * UPDATE_RMS, rel=0.25)


def test_what_has_no_gradient_stays():
    weights = [nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4))]
    Muon(weights, **RATES).step()
    assert all(torch.equal(weight, torch.ones_like(weight)) for weight in weights)


def test_a_closures_gradients_are_those_of_the_step():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 6))
    other = nn.Parameter(weight.detach().clone())
    optimizer = Muon([weight], **RATES)

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    first = weight.detach().square().sum()
    assert torch.equal(optimizer.step(closure), first)
    other.square().sum().backward()
    Muon([other], **RATES).step()
    assert torch.equal(weight, other)


def test_a_loaded_state_goes_on_as_the_saved_one():
    torch.manual_seed(0)
    network = nn.Conv2d(4, 8, 3)
    optimizer = Muon(network.parameters(), **RATES)
    for seed in range(3):
        set_gradients(network.parameters(), seed)
        optimizer.step()
    other = copy.deepcopy(network)
    loaded = Muon(other.parameters(), **RATES)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, by in ((network, optimizer), (other, loaded)):
        set_gradients(one.parameters(), 9)
        by.step()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
