"""Starts that know their inputs: outputs of the size of 1 for every encoding, order and format."""

import math
import warnings

import pytest
import torch

import htf
from htf import DimensionTree
from htf.datasets import affine, complementary, encoding_moments, one_hot, quantize, trigonometric
from htf.engine import Layout
from htf.nn import CPNetwork, HTNetwork
from htf.nn.init import Moments, gaussian, scale_preserving

ENCODERS = {f.__name__: f for f in (affine, trigonometric, complementary)}


def pixels(order, samples=100, seed=0):
    return torch.rand(samples, order, 1, generator=torch.Generator().manual_seed(seed))


def vectors(name, order, **kwargs):
    x = pixels(order, **kwargs)
    return one_hot((3 * x.squeeze(2)).long(), 3) if name == "one_hot" else ENCODERS[name](x, 1)


def moments(name):
    return encoding_moments(one_hot, levels=3) if name == "one_hot" else encoding_moments(ENCODERS[name])


def networks(order, dim, init, **kwargs):
    side = math.isqrt(order)
    options = {"init": init, "seed": 0, **kwargs}
    yield CPNetwork([dim] * order, [3, 8], outputs=4, **options)
    yield HTNetwork(DimensionTree.grid(side, side), dim, 8, outputs=4, **options)
    if order < 1024:
        yield CPNetwork([dim] * order, 1, **options)
        yield HTNetwork(DimensionTree.linear(order), dim, 5, **options)
        yield HTNetwork(DimensionTree.balanced(order), dim, [1, 4], **options)
        yield HTNetwork(DimensionTree.balanced(order), dim, 4, shared=True, **options)


@torch.no_grad()
def sizes(network, x):
    """Root mean square of the outputs of each run."""
    squares = network(x).double().square().view(len(x), network.runs, -1)
    return squares.mean((0, 2)).sqrt()


@pytest.mark.parametrize("name", [*ENCODERS, "one_hot"])
@pytest.mark.parametrize("order", [16, 100, 1024])
def test_a_start_from_samples_has_outputs_near_one(name, order):
    x = vectors(name, order)
    for network in networks(order, x.shape[2], scale_preserving(inputs=x)):
        torch.testing.assert_close(sizes(network, x), torch.ones(network.runs).double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", [*ENCODERS, "one_hot"])
@pytest.mark.parametrize("order", [16, 144])
def test_a_start_from_samples_serves_others(name, order):
    x, others = vectors(name, order), vectors(name, order, seed=1)
    for network in networks(order, x.shape[2], scale_preserving(inputs=x)):
        assert bool(((sizes(network, others) > 0.1) & (sizes(network, others) < 10)).all())


@pytest.mark.parametrize("name", [*ENCODERS, "one_hot"])
@pytest.mark.parametrize("order", [16, 1024])
def test_a_start_from_moments_has_outputs_near_one(name, order):
    # Of trigonometric products over 1,024 pixels few samples decide the root mean square: a batch of usual size.
    x = vectors(name, order, samples=500, seed=1)
    for network in networks(order, x.shape[2], scale_preserving(inputs=moments(name)), dtype=torch.float64):
        found = sizes(network, x.double())
        assert bool(((found > 0.1) & (found < 10)).all()), (network, found)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_correlated_pixels(name, dtype):
    digits = htf.datasets.load("digits")
    x, others = (ENCODERS[name](im, digits.maximum).to(dtype) for im in (digits.train_images, digits.test_images))
    start = scale_preserving(inputs=x)
    for network in (
        HTNetwork(DimensionTree.grid(8, 8), 2, 16, outputs=10, init=start, seed=0, dtype=dtype),
        CPNetwork([2] * 64, 16, init=start, seed=0, dtype=dtype),
    ):
        for images in (x, others):
            assert 0.5 < float(sizes(network, images)) < 2
        with torch.no_grad():
            assert 0.1 < float(network(x).abs().median()) < 10


def test_indices_are_inputs_too():
    digits = htf.datasets.load("digits")
    x = quantize(digits.train_images, 4, digits.maximum)
    network = HTNetwork(DimensionTree.grid(8, 8), 4, 6, init=scale_preserving(inputs=x), seed=0)
    assert 0.9 < float(sizes(network, x)) < 1.1


def test_modes_of_other_dimensions():
    x = torch.rand(200, 5, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    x[:, ::2, 2] = 7.0  # beyond the dimension of every other mode, which does not read it
    network = HTNetwork(DimensionTree.balanced(5), (2, 3, 2, 3, 2), 3, init=scale_preserving(inputs=x), seed=0)
    torch.testing.assert_close(sizes(network, x), torch.ones(1).double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("vector", [(2**-0.5, 2**-0.5), (1.0, 255.0), (0.0, 1e-3), (-1.0, 2.0)])
def test_constant_vectors(vector):
    x = torch.tensor(vector).expand(10, 784, 2)
    for network in (
        CPNetwork([2] * 784, 3, init=scale_preserving(inputs=x), seed=0),
        HTNetwork(DimensionTree.grid(28, 28), 2, 4, init=scale_preserving(inputs=x), seed=0),
    ):
        torch.testing.assert_close(sizes(network, x), torch.ones(1).double(), rtol=2e-3, atol=0)


def test_seeds_decide_and_runs_start_as_they_would_alone():
    start = scale_preserving(inputs=vectors("trigonometric", 16))
    tree = DimensionTree.balanced(16)
    both = HTNetwork(tree, 2, [2, 4], init=start, seed=[5, 6])
    for run, (width, seed) in enumerate([(2, 5), (4, 6)]):
        alone = HTNetwork(tree, 2, width, init=start, seed=seed)
        for node, matrix in alone.parameters_for(0).items():
            assert torch.equal(matrix, both.matrix(node, run))
    assert not torch.equal(both.matrix(0, 0), HTNetwork(tree, 2, 2, init=start, seed=7).matrix(0))


def test_many_samples_are_thinned_evenly():
    x = torch.cat([vectors("affine", 16, samples=1000, seed=s) * 1.1**s for s in range(4)])
    network = CPNetwork([2] * 16, 3, init=scale_preserving(noise=0, inputs=x), seed=0)
    torch.testing.assert_close(sizes(network, x), torch.ones(1).double(), rtol=0.05, atol=0)


def test_leaves_map_vectors_to_nearly_a_constant():
    for name in ("affine", "complementary"):
        x = vectors(name, 8)
        network = CPNetwork([2] * 8, 1, init=scale_preserving(noise=0, inputs=x), seed=0, dtype=torch.float64)
        assert float(network(x.double()).log().detach().std()) < 0.02


@pytest.mark.parametrize("width", [1, 16])
@pytest.mark.parametrize("tree", [DimensionTree.balanced(1024), DimensionTree.linear(1024), DimensionTree.grid(32, 32)])
def test_the_default_start_keeps_its_promise_at_order_1024(tree, width):
    indices = torch.randint(0, 2, (50, 1024), generator=torch.Generator().manual_seed(0))
    network = HTNetwork(tree, 2, width, runs=2, seed=0)
    found = sizes(network, indices)
    assert bool(((found > 0.1) & (found < 10)).all()), found
    # The draws are those of the function itself but for a power of two at the root.
    layout, generator = Layout.build(tree, 2, width), torch.Generator().manual_seed(0)
    *below, root = [scale_preserving()(layout, block, generator).float() for block in layout.blocks]
    for weight, drawn in zip(network.weights, below, strict=False):
        assert torch.equal(weight[0], drawn)
    power = network.weights[-1][0] / root
    assert math.frexp(float(power.flatten()[0].detach()))[0] == 0.5
    assert bool((power == power.flatten()[0]).all())


def test_vectors_that_a_start_does_not_suit_are_named_once():
    x = vectors("trigonometric", 256)
    network = HTNetwork(DimensionTree.grid(16, 16), 2, 4, seed=0)
    with pytest.warns(RuntimeWarning, match=r"outputs of this HTNetwork .*scale_preserving\(inputs"):
        network(x)
    network(x)
    network.reset_parameters(seed=1)
    with pytest.warns(RuntimeWarning, match="first encoded"):
        network(x)
    with pytest.warns(RuntimeWarning, match="root mean square of (inf|nan)"):
        CPNetwork([2] * 784, 4, init=gaussian(10.0), seed=0)(vectors("affine", 784))
    # Moments of independent pixels, and images all black or white.
    start = scale_preserving(inputs=moments("trigonometric"))
    with pytest.warns(RuntimeWarning, match="first encoded"):
        CPNetwork([2] * 256, 4, init=start, seed=0)(trigonometric(pixels(256).round(), 1))


def test_what_was_trained_or_loaded_is_not_judged_as_a_start():
    x = vectors("affine", 256)
    network, other = (CPNetwork([2] * 256, 2, seed=s) for s in (0, 1))
    other.load_state_dict(network.state_dict())
    other(x)
    CPNetwork([2] * 256, 2, init=gaussian(), seed=0)(x)  # near zero, as asked for
    CPNetwork([2] * 256, 2, seed=0)(vectors("complementary", 256))


def test_products_that_no_start_evens_out():
    x = torch.randn(50, 300, 2, generator=torch.Generator().manual_seed(0))
    with pytest.warns(RuntimeWarning, match="differ by many orders of magnitude"):
        network = CPNetwork([2] * 300, 4, init=scale_preserving(inputs=x), seed=0)
    assert float(sizes(network, x)) == pytest.approx(1, rel=1e-2)


def test_bad_inputs():
    def network(inputs, dims=(2, 2, 2)):
        return CPNetwork(dims, 2, init=scale_preserving(inputs=inputs), seed=0)

    with pytest.raises(TypeError, match="inputs is a str; expected a Tensor of encoded vectors"):
        scale_preserving(inputs="trigonometric")
    with pytest.raises(ValueError, match=r"inputs has shape \(3, 4\); expected \(samples, order, dim\)"):
        scale_preserving(inputs=torch.ones(3, 4))
    with pytest.raises(ValueError, match="inputs has 2 entries that are NaN or infinite"):
        scale_preserving(inputs=torch.tensor([[[1.0, math.nan], [math.inf, 0]]]))
    with pytest.raises(ValueError, match=r"has shape \(4, 3, 3\); the network expects \(samples, 3, 2\)"):
        network(torch.ones(4, 3, 3))
    with pytest.raises(IndexError, match="indices of mode 0 range from 7 to 7"):
        network(torch.full((4, 3), 7))
    with pytest.raises(ValueError, match=r"moments of shape \(3,\); the network expects \(2,\) or \(3, 2\)"):
        network(moments("one_hot"))
    with pytest.raises(ValueError, match="zero in mode 1; every product over all modes is then 0"):
        network(torch.ones(4, 3, 2) * torch.tensor([1.0, 0.0, 1.0])[:, None])
    with pytest.raises(ValueError, match="zero vector in every sample"):
        network(torch.eye(3)[:, :, None].expand(3, 3, 2))
    layout = Layout.build(DimensionTree.balanced(4), 2, 3)
    with pytest.raises(TypeError, match="depend on each other; draw them with `tree`"):
        scale_preserving(inputs=torch.ones(2, 4, 2))(layout, layout.blocks[0], None)
    with pytest.raises(ValueError, match=r"mean has shape \(2,\) and second \(3, 3\)"):
        Moments(torch.ones(2), torch.ones(3, 3))
    with pytest.raises(TypeError, match=r"mean is torch\.int64; expected a Tensor of floats"):
        Moments(torch.ones(2).long(), torch.ones(2, 2))


def test_an_initializer_of_ones_own_that_draws_a_tree_at_once():
    class Ones:
        def __call__(self, layout, block, generator):
            raise AssertionError

        def tree(self, layout, generator, shared=False):
            return [torch.full((len(b.nodes), b.rows, b.columns), 2.0) for b in layout.blocks]

    assert all(bool((p == 2).all()) for p in HTNetwork(DimensionTree.balanced(4), 2, 3, init=Ones()).parameters())
    with pytest.raises(ValueError, match="init returned 3 blocks of matrices; expected 1"):
        CPNetwork([2] * 3, 2, init=type("Three", (Ones,), {"tree": lambda *_, **__: [torch.ones(1)] * 3})())


def test_training_from_such_a_start_learns():
    digits = htf.datasets.load("digits").take(300)
    x, y = trigonometric(digits.train_images, digits.maximum), digits.train_labels
    network = HTNetwork(DimensionTree.grid(8, 8), 2, 8, outputs=10, init=scale_preserving(inputs=x), seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            loss = torch.nn.functional.cross_entropy(network(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(math.log(10), rel=1e-2)
    assert losses[-1] < 0.9 * losses[0]
