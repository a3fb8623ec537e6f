"""Modes of factorized layers: as given, so many, or those of the quickest step."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from htf.nn.layers.factorized import FactorizedEmbedding, FactorizedLinear
from htf.nn.layers.factorized._routes import linear_times
from htf.nn.layers.factorized.choice import balanced_factors, matrix_format, quickest_shape
from htf.surgery import factorize

FORMATS = ["cp", "tucker", "tt", "ht"]


def time_of(name, shape, share, batch=64):
    layout = matrix_format(name, shape)
    rank = layout.of_size(share * math.prod(layout.dims))
    return min(linear_times(layout, rank, len(shape[0]), batch).values())


@given(st.sampled_from(FORMATS), st.integers(1, 60), st.integers(1, 60), st.floats(0.01, 1))
@settings(deadline=None, max_examples=25)
def test_the_chosen_modes_hold_as_much_in_less_time(name, outs, ins, share):
    shape = quickest_shape(name, outs, ins, share)
    assert tuple(map(math.prod, shape)) == (outs, ins)
    balanced = balanced_factors(outs), balanced_factors(ins)
    chosen, former = (matrix_format(name, each) for each in (shape, balanced))
    ranks = [layout.of_size(share * outs * ins) for layout in (chosen, former)]
    if ranks[1] is None:
        return
    assert chosen.size(ranks[0]) <= share * outs * ins
    assert chosen.freedom(ranks[0]) >= 0.95 * former.freedom(ranks[1])
    assert time_of(name, shape, share) <= time_of(name, balanced, share)


@pytest.mark.parametrize(("features", "share"), [((784, 512), 0.1), ((4096, 4096), 0.01)])
@pytest.mark.parametrize("name", FORMATS)
def test_steps_of_large_layers_take_few_operations(name, features, share):
    layer = matrix_format(name, quickest_shape(name, *features[::-1], share))
    rank, batch = layer.of_size(share * math.prod(features)), 64
    times = linear_times(layer, rank, 2, batch)
    plain = 2 * batch * math.prod(features)
    # Forward only; numbers moved and calls included.
    assert min(times.values()) < 1.5 * plain


@pytest.mark.parametrize("name", FORMATS)
def test_degrees_of_freedom_are_the_rank_of_the_derivative(name):
    layout = matrix_format(name, ((2, 3), (3, 2)))
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2):
        # HT and Tucker: within what the factors allow, all bases are free.
        rank = layout.uniform(size)
        factors = tuple(f.double() for f in layout.draw(rank, 1.0, generator))
        parts = torch.autograd.functional.jacobian(lambda *given: layout.dense(given).flatten(), factors)
        matrix = torch.cat([part.flatten(1) for part in parts], 1)
        assert int(torch.linalg.matrix_rank(matrix)) == layout.freedom(rank)


def test_shapes_are_as_given():
    assert FactorizedLinear(784, 512, rank=0.1, shape=3).shape == ((8, 8, 8), (7, 8, 14))
    assert FactorizedLinear(784, 512, rank=0.1, shape=2).shape == ((16, 32), (28, 28))
    assert FactorizedLinear(784, 512, rank=0.1, shape=((2, 256), (784,))).shape == ((2, 256), (784,))
    assert FactorizedLinear(784, 512, rank=0.1).shape == ((4, 128), (4, 196))
    assert FactorizedLinear(784, 512, rank=0.1, format="tt").shape == ((128, 4), (4, 196))
    # Ranks that are no share say nothing of the size.
    assert FactorizedLinear(784, 512, rank=4).shape == ((8, 8, 8), (7, 8, 14))
    assert FactorizedLinear(8, 6, format="tt", rank=(1, 2, 2, 1)).shape == ((2, 3), (2, 2, 2))
    assert FactorizedEmbedding(128, 64, rank=0.1).shape == ((4, 4, 8), (4, 4, 4))
    assert FactorizedEmbedding(128, 64, rank=0.1, shape=2).shape == ((8, 16), (8, 8))
    assert FactorizedLinear(16, 17, rank=0.5, shape=9).shape == ((17,), (2, 2, 2, 2))


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        (0, ValueError, "shape is 0"),
        (True, ValueError, "shape is True; expected"),
        (2.0, ValueError, r"shape is 2.0; expected \(\(out_1, ...\), \(in_1, ...\)\) or a number of modes"),
        (((2, 2), (2, 2)), ValueError, "which multiply to 4; out_features is 12"),
    ],
)
def test_shapes_that_do_not_fit(shape, kind, message):
    with pytest.raises(kind, match=message):
        FactorizedLinear(8, 12, rank=0.5, shape=shape)
    with pytest.raises(ValueError, match="expected None for format 'matrix'"):
        FactorizedLinear(8, 12, format="matrix", rank=0.5, shape=2)
    with pytest.raises(ValueError, match="expected None for format 'matrix'"):
        factorize(nn.Sequential(nn.Linear(8, 12)), "matrix", rank=0.5, shape=2)


@pytest.mark.parametrize("wanted", [{"rank": 0.3}, {"size": 288}])
def test_layers_made_of_plain_ones_choose_too(wanted):
    plain = nn.Linear(40, 24)
    expected = quickest_shape("ht", 24, 40, 0.3)
    layer = FactorizedLinear.from_plain(plain, **wanted)
    assert layer.shape == expected
    assert FactorizedLinear.from_plain(plain, energy=0.5).shape == ((2, 3, 4), (2, 4, 5))
    assert layer.truncated(rank=0.1).shape == expected


def test_models_are_factorized_with_the_modes_that_are_asked():
    model = nn.Sequential(nn.Embedding(60, 40), nn.Linear(40, 24), nn.Unflatten(-1, (24, 1)), nn.Conv1d(24, 8, 1))
    for start in ("same", "random"):
        small = factorize(model, "tt", rank=0.3, shape=2, start=start)
        assert [small[0].shape, small[1].shape] == [((6, 10), (5, 8)), ((4, 6), (5, 8))]
        assert type(small[3]).__name__ == "FactorizedConv1d"
    assert factorize(model, "ht", rank=0.3)[1].shape == quickest_shape("ht", 24, 40, 0.3)


@pytest.mark.parametrize("name", FORMATS)
def test_states_of_layers_with_the_former_modes_load(name):
    former = FactorizedLinear(64, 64, format=name, rank=0.1, shape=3, seed=0)
    layer = FactorizedLinear(64, 64, format=name, rank=0.1, seed=1)
    assert layer.shape != former.shape
    layer.requires_grad_(False)
    model = nn.Sequential(layer)
    with pytest.warns(UserWarning, match=r"0\.factors in the state have the modes .* make optimizers afterwards"):
        model.load_state_dict({f"0.{key}": value for key, value in former.state_dict().items()})
    assert (layer.shape, layer.rank) == (former.shape, former.rank)
    assert torch.equal(layer.weight, former.weight)
    assert torch.equal(layer(torch.ones(3, 64)), former(torch.ones(3, 64)))
    assert not any(factor.requires_grad for factor in layer.factors)
    # And its own states, without a word; where the modes were asked for, they stay.
    layer.load_state_dict(former.state_dict())
    asked = FactorizedLinear(64, 64, format=name, rank=0.1, shape=2)
    with pytest.raises(RuntimeError, match="factors"):
        asked.load_state_dict(former.state_dict())
