"""Penalties on the rank of weights against singular values and finite differences."""

import math

import pytest
import torch
from torch import nn

from htf.nn.layers.drop_in import DropInLayer
from htf.ranks import effective_rank
from htf.regularizers.weight_rank import WeightRank
from htf.surgery import overparameterize

PENALTIES = ["nuclear", "log_det", "effective_rank"]


def reference(penalty, matrix, eps=1e-3):
    s = torch.linalg.svdvals(matrix.detach().double())
    if penalty == "nuclear":
        return float(s.sum())
    if penalty == "effective_rank":
        return float(effective_rank(s))
    rho = matrix.detach().double() @ matrix.detach().double().mT
    rho = rho / rho.trace()
    return float(torch.logdet(torch.eye(len(rho), dtype=rho.dtype) + rho / eps)) - math.log1p(1 / eps)


class Product(DropInLayer):
    """A layer whose weight is the product of two others."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 2, bias=False)
        self.second = nn.Linear(2, 3, bias=False)
        self.bias = None

    @property
    def weight(self):
        return self.second.weight @ self.first.weight

    def plain(self):
        raise NotImplementedError

    def truncated(self, *, tol=None, rank=None):
        raise NotImplementedError


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 5, 2)),
        nn.Flatten(),
        nn.Linear(5, 3),
    ).double()


def weights(net):
    return [
        net[0].weight.flatten(1),
        net[2][0].weight.flatten(1),
        net[2][1].weight.transpose(0, 1).flatten(1),
        net[4].weight,
    ]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_mean_over_all_layers_of_the_network(penalty):
    net, reg = network(), WeightRank(penalty, weight=0.5)
    assert reg.last is None
    value = reg(net, torch.ones(1), None, None)
    expected = sum(reference(penalty, w) for w in weights(net)) / 4
    assert float(value.detach()) == pytest.approx(0.5 * expected, rel=1e-9)
    assert reg.last == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (5, 3)])
def test_gradients_against_finite_differences(penalty, shape):
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0], bias=False, dtype=torch.float64)
    reg = WeightRank(penalty, eps=0.05)

    def value(weight):
        layer.weight.data = weight
        return float(reg(layer).detach())

    weight = torch.randn(shape, dtype=torch.float64)
    value(weight)
    reg(layer).backward()
    step, numeric = 1e-6, torch.zeros(shape, dtype=torch.float64)
    for i in range(shape[0]):
        for j in range(shape[1]):
            at = torch.zeros(shape, dtype=torch.float64)
            at[i, j] = step
            numeric[i, j] = (value(weight + at) - value(weight - at)) / (2 * step)
    torch.testing.assert_close(layer.weight.grad, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_repeated_singular_values(penalty):
    # At 2 I, whichever singular vectors were taken, the gradient is a multiple of I; 0 where scale does not matter.
    layer = nn.Linear(3, 3, bias=False, dtype=torch.float64)
    layer.weight.data = 2 * torch.eye(3, dtype=torch.float64)
    WeightRank(penalty)(layer).backward()
    expected = torch.eye(3, dtype=torch.float64) * (1 if penalty == "nuclear" else 0)
    torch.testing.assert_close(layer.weight.grad, expected)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("rank", [0, 1])
def test_singular_values_of_zero(penalty, rank):
    layer = nn.Linear(3, 4, bias=False, dtype=torch.float64)
    layer.weight.data.zero_()
    if rank:
        layer.weight.data[0, 0] = 5
    reg = WeightRank(penalty)
    reg(layer).backward()
    assert reg.last == pytest.approx({0: 0, 1: {"nuclear": 5, "log_det": 0, "effective_rank": 1}[penalty]}[rank])
    assert bool(layer.weight.grad.isfinite().all())
    # Nothing that has no rank yet is moved.
    assert float(layer.weight.grad[1:].abs().max()) == 0


@pytest.mark.parametrize("penalty", ["log_det", "effective_rank"])
def test_scale_does_not_matter(penalty):
    net, reg = network(), WeightRank(penalty)
    before = float(reg(net).detach())
    with torch.no_grad():
        net[0].weight *= 1e-3
        net[4].weight *= 1e3
    assert float(reg(net).detach()) == pytest.approx(before, rel=1e-6)


def largest(layer):
    return float(torch.linalg.matrix_norm(layer.weight.detach(), 2))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_descent_lowers_the_rank(penalty):
    torch.manual_seed(0)
    layer = nn.Linear(8, 8, bias=False)
    reg = WeightRank(penalty)
    # Steps of the nuclear norm take the same from all singular values; near the largest, few are left.
    steps = {"nuclear": 100, "log_det": 150, "effective_rank": 150}[penalty]
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5 * largest(layer) / steps if penalty == "nuclear" else 0.01)
    before = float(effective_rank(torch.linalg.svdvals(layer.weight.detach())))
    for _ in range(steps):
        optimizer.zero_grad()
        reg(layer).backward()
        optimizer.step()
    assert float(effective_rank(torch.linalg.svdvals(layer.weight.detach()))) < 0.8 * before


def test_names_choose_layers():
    net = network()
    every = [reference("nuclear", w) for w in weights(net)]
    one = WeightRank(modules=["4"])
    one(net)
    assert one.last == pytest.approx(every[3])
    nested = WeightRank(modules=["2", "0", "2.0"])
    nested(net)
    assert nested.last == pytest.approx(sum(every[:3]) / 3)


def test_stand_ins_count_by_the_weight_they_stand_for():
    layer = Product().double()
    net = nn.Sequential(layer, nn.ReLU(), layer)
    reg = WeightRank("effective_rank")
    reg(net).backward()
    assert reg.last == pytest.approx(reference("effective_rank", layer.weight), rel=1e-6)
    assert layer.first.weight.grad is not None
    assert float(layer.first.weight.grad.abs().max()) > 0


def test_tied_weights_count_once():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    reg = WeightRank()
    reg(nn.Sequential(first, second, nn.Linear(3, 2)))
    tied = reg.last
    reg(nn.Sequential(first))
    alone = reg.last
    assert tied != pytest.approx(alone)
    reg(nn.Sequential(first, second))
    assert reg.last == pytest.approx(alone)


def test_stand_ins_that_share_factors_count_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    model[1].weight = model[0].weight
    term, expected = WeightRank(), WeightRank()
    term(overparameterize(model, depth=3, seed=0))
    expected(model)
    assert term.last == pytest.approx(expected.last, rel=1e-5)


def test_half_precision_is_computed_in_single():
    layer = nn.Linear(4, 4).to(torch.bfloat16)
    value = WeightRank("effective_rank")(layer)
    assert value.dtype == torch.float32
    value.backward()
    assert layer.weight.grad.dtype == torch.bfloat16


def test_weight_zero_computes_nothing():
    reg = WeightRank(weight=0.0)
    assert float(reg(nn.Linear(2, 2))) == 0
    assert reg.last is None
    assert repr(reg) == "WeightRank(penalty='nuclear', weight=0.0, modules=None, eps=0.001)"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"penalty": "trace"}, ValueError, "penalty is 'trace'; expected one of nuclear, log_det, effective_rank"),
        ({"weight": math.inf}, ValueError, "weight is inf; expected a finite number"),
        ({"weight": "big"}, TypeError, "weight is 'big'; expected a number"),
        ({"modules": "fc"}, TypeError, r"modules is 'fc'; expected several names, such as \['fc'\]"),
        ({"modules": []}, ValueError, "modules is empty; expected at least one name"),
        ({"eps": 0.0}, ValueError, "eps is 0.0; expected above 0"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        WeightRank(**arguments)


def test_bad_models():
    with pytest.raises(TypeError, match=r"model is a function; expected an nn\.Module"):
        WeightRank()(lambda x: x)
    with pytest.raises(ValueError, match="model, Sequential, has no linear layer or convolution"):
        WeightRank()(nn.Sequential(nn.BatchNorm1d(2)))
    with pytest.raises(ValueError, match="model has no module 'head' to penalize"):
        WeightRank(modules=["head"])(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"module '1' is or has no linear layer"):
        WeightRank(modules=["0", "1"])(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    with torch.no_grad(), pytest.raises(RuntimeError, match="gradients are switched off"):
        WeightRank()(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="no parameter that requires a gradient"):
        WeightRank()(nn.Linear(2, 2).requires_grad_(False))
    layer = nn.Linear(2, 2)
    layer.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="the weight of 0 has NaN or infinite entries"):
        WeightRank()(nn.Sequential(layer))
