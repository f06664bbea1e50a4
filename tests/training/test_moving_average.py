import torch
from torch import nn

from irstd_ldm.training.loop import MovingAverage, TrainedPart, averaged_weights


def make_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    model[2].requires_grad_(False)
    return model


def test_weights_and_running_statistics_are_averaged_with_a_warm_up_and_counts_are_copied():
    model = make_model()
    part = TrainedPart(model)
    average = MovingAverage(part, decay=0.3)
    expected = {}
    for step in range(6):
        model(torch.randn(2, 1, 8, 8))
        with torch.no_grad():
            model[0].weight += 1
        average.update_parameters(part)
        decay = min(0.3, (1 + step) / (10 + step)) if step else 0
        for name in ("0.weight", "1.running_mean", "1.running_var"):
            value = model.state_dict()[name].double()
            expected[name] = decay * expected.get(name, 0) + (1 - decay) * value
    by_name = average.by_name()
    for name, value in expected.items():
        torch.testing.assert_close(by_name[name].double(), value, atol=1e-6, rtol=1e-6)
    assert by_name["1.num_batches_tracked"].item() == 6 and by_name["1.num_batches_tracked"].dtype == torch.int64
    assert not any(name.startswith("2.") for name in by_name)  # frozen


def test_a_model_holds_its_average_for_a_while_and_contiguous():
    model = make_model()
    model.to(memory_format=torch.channels_last)
    part = TrainedPart(model)
    average = MovingAverage(part, decay=0.9)
    average.update_parameters(part)
    with torch.no_grad():
        model[0].weight += 1
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with averaged_weights(model, average):
        torch.testing.assert_close(model[0].weight, own["0.weight"] - 1)
        assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    with averaged_weights(model, None):
        assert torch.equal(model[0].weight, own["0.weight"])
