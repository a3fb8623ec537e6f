"""Whatever torch's default device is: what has a device of its own stays there, what has none is made on the default.

The default is "meta" here.  Whatever followed it in the middle of an operation on CPU tensors would mix devices or lose
its values, and whatever drew there from a generator of the CPU would fail, as it would on a GPU.
"""

import warnings

import numpy as np
import pytest
import torch

import htf
from htf import DimensionTree, datasets, dynamics, nn, ranks, regularizers, training
from htf.nn.init import balanced, gaussian, scale_preserving


def random(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), device="cpu")


DATA = datasets.load("digits")
INDICES = (random(40, 16) * 2).long()
SMALL = {"train": 16, "validation": 16, "test": 16, "seed": 0}
TREE = DimensionTree.grid(4, 4)


def resnet():
    with torch.device("cpu"):
        return nn.small_resnet(seed=0)


def problem(shape=(6, 6, 6), teacher="cp", **kwargs):
    return datasets.tensor_completion(shape, teacher, rank=2, observed=20, seed=0, device="cpu", **kwargs)


def trained(network, of, track):
    history = training.fit(network, of, lr=1e-2, steps=20, every=10, track=track)
    return history.loss, [list(record.values()) for record in history.tracked.values()], list(network.parameters())


def network_of(kind, **kwargs):
    options = {"seed": 0, "device": "cpu", **kwargs}
    if kind == "cp":
        return nn.CPNetwork([2] * 16, [2, 3], outputs=3, **options)
    if kind == "few":
        return nn.CPNetwork([2] * 4, 3, runs=2, **options)
    return nn.HTNetwork(TREE, 2, 3, runs=2, shared=kind == "shared", **options)


def network_case(kind):
    network = network_of(kind)
    indices = INDICES[:, : network.order]
    plan = network.plan(indices)
    outputs = network(plan)
    training.center_outputs(network, plan, torch.full_like(outputs, 0.5))
    optimizer = training.RelativeAdam(network)
    network(indices).square().sum().backward()
    optimizer.step()
    optimizer.slow_down(torch.ones(network.runs, dtype=torch.bool, device="cpu"))
    optimizer.step()
    encoded = network(datasets.one_hot(indices, 2))
    return outputs, encoded, network.run_norms([p.grad for p in network.parameters()]), network.unbalancedness()


def overparameterized_case(cls, x):
    layer = cls(x.shape[1], 4, *([3] if x.ndim > 2 else []), depth=3, seed=0, batch_norm=True, device="cpu")
    outputs = layer(x)
    outputs.sum().backward()
    return outputs, layer.weight, layer.truncated(tol=0.1)(x), layer.plain()(x)


def factorized_case(format):
    linear = nn.FactorizedLinear(12, 8, format=format, rank=0.5, seed=0, device="cpu")
    layer = nn.FactorizedConv2d(4, 6, 3, format=format, rank=0.5, seed=0, device="cpu")
    x = random(2, 4, 8, 8)
    return linear(random(3, 12)), layer(x), layer.weight, layer.truncated(tol=0.1)(x)


def surgery_case():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(3, 6, 3, device="cpu"), torch.nn.Flatten(), torch.nn.Linear(216, 8, device="cpu")
    model, x = torch.nn.Sequential(*layers), random(2, 3, 8, 8)
    deep = htf.overparameterize(model, depth=3, seed=0)
    htf.truncate(deep, budget=0.5)
    small = htf.factorize(model, format="tucker", rank=0.5, seed=0)
    return deep(x), htf.collapse(deep)(x), small(x), htf.collapse(small)(x)


def regularizer_case(regularizer):
    model, x = resnet(), random(8, 1, 16, 16)
    value = regularizer(model, x, (random(8) * 2).long(), model(x).squeeze(1))
    value.backward()
    return value


def classify_case():
    model, data = resnet(), datasets.is_same_class("digits", distance=8, train=16, test=16, seed=0)
    training.classify(model, data, settings=training.ClassifySettings(epochs=1, batch_size=8))
    return list(model.parameters()), ranks.separation_profile(model, data.test, distances=[0, 6]).shares


def tensor_case():
    array = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 4, 4, 4)))
    x = htf.hierarchical_tucker(array, tol=1e-1)
    y = htf.random_ht(x.shape, rank=2, tree=x.tree, random_state=0, like=array)
    z = (x * y + 2 * x).round(tol=1e-8)
    return z.to_tensor(), z.norm(), x.inner(y), z[0, 1, 2, 3], list(ranks.entanglement_entropies(y).values())


CASES = {
    **{f"twin {name}": lambda name=name: datasets.TWINS[name](DATA, 0).train_images for name in datasets.TWINS},
    "digits": lambda: datasets.load("digits").holdout().train_images,
    "corrupted labels": lambda: datasets.corrupted_labels(0.5)(DATA, 0).train_labels,
    "encodings": lambda: [
        f(DATA.train_images, 16) for f in (datasets.affine, datasets.trigonometric, datasets.complementary)
    ],
    "moments": lambda: datasets.encoding_moments(datasets.trigonometric).second,
    "pathfinder": lambda: datasets.pathfinder(path_length=3, size=32, **SMALL).train[:4],
    "far parity": lambda: datasets.far_parity(**SMALL).train[:4],
    "crossed dots": lambda: datasets.crossed_dots(datasets.pathfinder(path_length=3, size=32, **SMALL), "train", 4),
    "completion": lambda: [problem(noise=0.1).values, problem((4,) * 4, "ht").target],
    "sensing": lambda: (
        datasets.tensor_sensing((6, 6), "matrix", rank=2, measurements=9, noise=0.1, seed=0, device="cpu").values
    ),
    **{f"network {kind}": lambda kind=kind: network_case(kind) for kind in ("cp", "few", "ht", "shared")},
    **{
        f"start {k}": lambda start=start: list(network_of("ht", init=start).parameters())
        for k, start in enumerate(
            [gaussian(), balanced(), scale_preserving(inputs=INDICES), scale_preserving(inputs=random(9, 16, 2))]
        )
    },
    **{
        f"matrix {start}": lambda start=start: nn.MatrixFactorization(
            (6, 5), 3, runs=2, init=start, seed=0, device="cpu"
        )(INDICES[:, :2])
        for start in ("gaussian", "balanced")
    },
    **{
        f"deep {start}": lambda start=start: nn.DeepNetwork(4, 3, 3, 5, init=start, seed=0, device="cpu")(random(7, 4))
        for start in ("normal", "uniform", "orthogonal")
    },
    "finite sample": lambda: nn.finite_sample_network(random(20, 5), random(20).round())(random(20, 5)),
    "overparameterized linear": lambda: overparameterized_case(nn.OverparamLinear, random(3, 6)),
    "overparameterized conv": lambda: overparameterized_case(nn.OverparamConv2d, random(2, 3, 8, 8)),
    **{f"factorized {f}": lambda f=f: factorized_case(f) for f in ("ht", "tt", "tucker", "cp", "matrix")},
    "surgery": surgery_case,
    **{
        f"{kind.__name__} {k}": lambda kind=kind, k=k: regularizer_case(kind(PATCHES[k](), weight=1.0, seed=0))
        for kind in (regularizers.InputGradientChange, regularizers.Interaction)
        for k in range(4)
    },
    "GradientFieldChange": lambda: regularizer_case(
        regularizers.GradientFieldChange(size=2, distance=3, samples=4, seed=0)
    ),
    "TreeEntropy": lambda: regularizers.TreeEntropy(weight=1.0)(network_of("ht")),
    "TreeLogDet": lambda: regularizers.TreeLogDet(weight=1.0)(network_of("ht")),
    "fit cp": lambda: trained(
        nn.CPNetwork((6, 6, 6), 3, seed=0, device="cpu"), problem(), dynamics.component_norms(top=2)
    ),
    "fit ht": lambda: trained(
        nn.HTNetwork(DimensionTree.balanced(4), 4, 3, seed=0, device="cpu"),
        problem((4,) * 4, "ht"),
        dynamics.local_component_norms(top=2),
    ),
    "fit matrix": lambda: trained(
        nn.MatrixFactorization((6, 6), seed=0, device="cpu"), problem((6, 6), "matrix"), dynamics.singular_values(top=2)
    ),
    "classify": classify_case,
    "receptive field": lambda: nn.receptive_field(resnet()),
    "tensors": tensor_case,
    "cp rank": lambda: list(ranks.cp_rank(torch.ones(2, 2, 2, device="cpu")).errors.values()),
}
PATCHES = (
    lambda: regularizers.preset_areas((0, 0, 4, 4), (8, 8, 4, 4)),
    lambda: regularizers.random_patches(size=2),
    lambda: regularizers.far_patches(size=2, distance=3),
    lambda: regularizers.tree_patches(DimensionTree.grid(16, 16)),
)


def flat(value):
    if isinstance(value, list | tuple):
        return [part for each in value for part in flat(each)]
    return [value.detach() if isinstance(value, torch.Tensor) else torch.tensor(value, device="cpu")]


@pytest.mark.parametrize("name", CASES)
def test_results_do_not_depend_on_the_default_device(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = flat(CASES[name]())
        with torch.device("meta"):
            found = CASES[name]()
        for mine, theirs in zip(flat(found), expected, strict=True):
            assert mine.device.type == "cpu"
            torch.testing.assert_close(mine, theirs, equal_nan=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.CPNetwork([2] * 16, [2, 3], seed=0),
        lambda: nn.HTNetwork(TREE, 2, 3, outputs=2, init="balanced", seed=[0]),
        lambda: nn.HTNetwork(TREE, 2, 3, init=scale_preserving(inputs=INDICES), seed=None),
        lambda: nn.MatrixFactorization((4, 5), 3, init="balanced", seed=0),
        lambda: nn.DeepNetwork(4, 3, 3, 5, seed=0),
        lambda: nn.OverparamConv2d(4, 5, 3, depth=2, batch_norm=True, seed=0),
        lambda: nn.FactorizedLinear(12, 8, rank=0.5, seed=0),
        lambda: nn.FactorizedConv2d(4, 8, 3, format="cp", rank=0.5, seed=None),
        nn.small_resnet,
        nn.resnet18,
    ],
)
def test_networks_and_layers_are_made_on_the_default_device(make):
    with torch.device("meta"):
        module = make()
    tensors = [*module.parameters(), *module.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_quick_start_on_a_gpu():
    torch.set_default_device("cuda")
    try:
        network = nn.HTNetwork(DimensionTree.grid(8, 8), 2, 4, seed=0)
        plan = network.plan(datasets.quantize(DATA.train_images, 2, 16).cuda())
        network(plan).sum().backward()
        solved = datasets.tensor_completion((6, 6, 6), "cp", rank=2, observed=60, seed=0)
        training.fit(nn.CPNetwork(solved.shape, 3, seed=0), solved, lr=1e-2, steps=10)
        model = nn.small_resnet()
        x, y = torch.rand(8, 1, 16, 16), torch.randint(2, (8,))
        for patches in PATCHES:
            regularizers.Interaction(patches(), seed=0)(model, x, y, model(x).squeeze(1)).backward()
            regularizers.InputGradientChange(patches(), seed=0)(model, x, y, model(x).squeeze(1)).backward()
        assert {p.device.type for p in [*model.parameters(), *network.parameters()]} == {"cuda"}
    finally:
        torch.set_default_device(None)
