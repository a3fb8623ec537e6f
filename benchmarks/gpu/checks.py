"""What is compared between devices: a name, and tensors computed anew on a device in a dtype."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import htf

Values = Callable[[torch.device, torch.dtype], list[Tensor]]


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes
    ----------
    name : str
    values : callable
        Of device and dtype; the same tensors everywhere, up to rounding.
    float32 : float
        Relative error allowed in float32; a thousandth of its square in float64, at least 1e-9.
    """

    name: str
    values: Values
    float32: float = 1e-4

    def allowed(self, dtype: torch.dtype, tf32: bool) -> float:
        """Relative error allowed."""
        if dtype == torch.float64:
            return max(1e-9, 1e-3 * self.float32**2)
        # TensorFloat-32 keeps ten bits of a factor, float32 23.
        return max(2e-2, 100 * self.float32) if tf32 else self.float32


def all_checks(tiny: bool) -> Iterator[Check]:
    """Networks, HT tensors, layers, regularizers, training."""
    yield from _networks(tiny)
    yield from _tensors()
    yield from _layers()
    yield from _regularizers()
    yield from _training()


def with_gradients(outputs: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The outputs, and gradients of a fixed combination of them."""
    weight = torch.cos(torch.arange(outputs.numel(), dtype=torch.float64)).view(outputs.shape)
    return [outputs, *torch.autograd.grad((outputs * weight.to(outputs)).sum(), parameters)]


# -- networks -------------------------------------------------------------------------------------------


def _networks(tiny: bool) -> Iterator[Check]:
    tree, order = htf.DimensionTree, 36 if tiny else 784
    side = 6 if tiny else 28
    makers: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
        "CP 16^3": (lambda **k: htf.nn.CPNetwork((16,) * 3, [5, 9], **k), (16,) * 3),
        f"CP 2^{order}": (lambda **k: htf.nn.CPNetwork((2,) * order, [1, 7, 3], **k), (2,) * order),
        "HT balanced": (lambda **k: htf.nn.HTNetwork(tree.balanced(8), 5, 6, runs=2, **k), (5,) * 8),
        "HT linear, three outputs": (lambda **k: htf.nn.HTNetwork(tree.linear(6), 4, 5, outputs=3, **k), (4,) * 6),
        "HT shared": (lambda **k: htf.nn.HTNetwork(tree.balanced(8), 3, 4, shared=True, **k), (3,) * 8),
        f"HT grid {side}x{side}": (lambda **k: htf.nn.HTNetwork(tree.grid(side, side), 2, 16, **k), (2,) * side**2),
        "MF, depth 3": (lambda **k: htf.nn.MatrixFactorization((9, 7), 3, runs=2, **k), (9, 7)),
    }
    for name, (make, dims) in makers.items():
        yield Check(f"{name}, indices", partial(_on_indices, make, dims), 1e-3 if len(dims) > 100 else 1e-4)
        if name.startswith(("CP 16", "HT bal", "HT lin", "HT sh", "MF")):
            yield Check(f"{name}, vectors", partial(_on_vectors, make, dims))


def _on_indices(
    make: Callable[..., Any], dims: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    network = _network(make, device, dtype)
    generator = torch.Generator().manual_seed(1)
    indices = torch.stack([torch.randint(0, dim, (300,), generator=generator) for dim in dims], 1).to(device)
    return with_gradients(network(network.plan(indices)), list(network.parameters()))


def _on_vectors(
    make: Callable[..., Any], dims: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    network = _network(make, device, dtype)
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(50, len(dims), max(dims), dtype=torch.float64, generator=generator)
    return with_gradients(network(x.to(device, dtype)), list(network.parameters()))


def _network(make: Callable[..., Any], device: torch.device, dtype: torch.dtype) -> Any:
    """Equal parameters everywhere, of both signs: drawn in float64 on the CPU."""
    network = make(seed=0, dtype=torch.float64)
    return network.to(device=device, dtype=dtype)


# -- HT tensors -----------------------------------------------------------------------------------------


def _tensors() -> Iterator[Check]:
    operations: dict[str, Callable[[Any, Any], Any]] = {
        "norm": lambda x, y: x.norm(),
        "inner": lambda x, y: x.inner(y),
        "sum": lambda x, y: (x + 2 * y).to_tensor(),
        "Hadamard": lambda x, y: (x * y).to_tensor(),
        "rounded": lambda x, y: (x + 0.01 * y).round(tol=1e-4).to_tensor(),
        "entries": lambda x, y: x[[0, 1, 2], [2, 1, 0], [0, 0, 1], [1, 1, 1], [3, 2, 0]],
        "orthogonalized": lambda x, y: x.orthogonalize().to_tensor(),
        "other tree": lambda x, y: x.change_tree(htf.DimensionTree.linear(5)).to_tensor(),
        "HSVD": lambda x, y: htf.hierarchical_tucker(x.to_tensor(), tol=1e-6).to_tensor(),
    }
    for name, operation in operations.items():
        # What is rounded to a tolerance has an error of that size.
        yield Check(
            f"HT tensor, {name}", partial(_of_tensors, operation, name != "rounded"), 3e-4 if "round" in name else 1e-4
        )
    yield Check("spectra and entropies", _spectra)


def _pair(device: torch.device, dtype: torch.dtype) -> list[Any]:
    pair = [htf.random_ht((4, 5, 3, 4, 5), rank=3, random_state=seed) for seed in (0, 1)]
    return [x.to_backend("pytorch", dtype=dtype, device=device).requires_grad_() for x in pair]


def _of_tensors(
    operation: Callable[[Any, Any], Any], differentiate: bool, device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    x, y = _pair(device, dtype)
    out = operation(x, y)
    # Where ranks are cut by a tolerance, gradients of what is cut need not agree.
    return with_gradients(out, [f for f in [*x.factors, *y.factors] if _reaches(out, f)]) if differentiate else [out]


def _reaches(out: Tensor, leaf: Tensor) -> bool:
    (gradient,) = torch.autograd.grad(out.sum(), leaf, retain_graph=True, allow_unused=True)
    return gradient is not None


def _spectra(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    x, _ = _pair(device, dtype)
    return [torch.stack([values[0] for values in x.detach().singular_values().values()])]


# -- layers ---------------------------------------------------------------------------------------------


def _layers() -> Iterator[Check]:
    for name in ("matrix", "tucker", "tt", "ht", "cp"):
        yield Check(
            f"linear, {name}",
            partial(_linear, partial(htf.nn.FactorizedLinear, 24, 16, format=name, rank=0.5, seed=0)),
        )
        yield Check(
            f"convolution, {name}",
            partial(_convolution, partial(htf.nn.FactorizedConv2d, 8, 12, 3, format=name, rank=0.5, seed=0)),
        )
    yield Check("linear, over-parameterized", partial(_linear, lambda: htf.nn.OverparamLinear(24, 16, depth=3, seed=0)))
    yield Check(
        "convolution, over-parameterized",
        partial(_convolution, lambda: htf.nn.OverparamConv2d(8, 12, 3, depth=3, seed=0)),
    )


def _linear(make: Callable[[], nn.Module], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    x = torch.randn(10, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = make().double().to(device=device, dtype=dtype)
    return with_gradients(layer(x.to(device, dtype)), [p for p in layer.parameters() if p.requires_grad])


def _convolution(make: Callable[[], nn.Module], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    x = torch.randn(4, 8, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = make().double().to(device=device, dtype=dtype)
    return with_gradients(layer(x.to(device, dtype)), [p for p in layer.parameters() if p.requires_grad])


# -- regularizers ---------------------------------------------------------------------------------------


def _regularizers() -> Iterator[Check]:
    patches = htf.regularizers.random_patches(2)
    makers: dict[str, Callable[[], Any]] = {
        "InputGradientChange": lambda: htf.regularizers.InputGradientChange(patches, seed=0),
        "GradientFieldChange": lambda: htf.regularizers.GradientFieldChange(2, samples=4, seed=0),
        "Interaction": lambda: htf.regularizers.Interaction(patches, samples=4, seed=0),
    }
    for name, make in makers.items():
        yield Check(name, partial(_of_model, make), 3e-3)
    tree = htf.DimensionTree.balanced(6)
    for name, of_tree in (("TreeEntropy", htf.regularizers.TreeEntropy), ("TreeLogDet", htf.regularizers.TreeLogDet)):
        yield Check(name, partial(_of_network, of_tree, tree), 1e-3)


def _of_model(make: Callable[[], Any], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 1, 16, 16, dtype=torch.float64, generator=generator).to(device, dtype)
    y = (torch.arange(8) % 2).to(device)
    # Smooth, so that no gradient jumps where two computations round differently.
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2),
        nn.Softplus(),
        nn.Conv2d(6, 6, 3, stride=2),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(54, 1),
    )
    model = model.double().to(device=device, dtype=dtype)
    x.requires_grad_()
    return with_gradients(make()(model, x, y, model(x)), list(model.parameters())[:3])


def _of_network(
    make: Callable[[], Any], tree: htf.DimensionTree, device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    network = _network(lambda **k: htf.nn.HTNetwork(tree, 3, 4, **k), device, dtype)
    return with_gradients(make()(network), list(network.parameters())[:1])


# -- training -------------------------------------------------------------------------------------------


def _training() -> Iterator[Check]:
    for name, form in (("CP", "cp"), ("HT", "ht"), ("MF", "matrix")):
        yield Check(f"fit, {name}", partial(_fit, form), 1e-2)
    yield Check("fit, checkpoint from the CPU", partial(_resumed, "cpu"), 1e-2)
    yield Check("fit, checkpoint to the CPU", partial(_resumed, ""), 1e-2)
    yield Check("classify, checkpoint from the CPU", _classified, 5e-2)


def _problem(form: str, device: Any, dtype: torch.dtype) -> tuple[Any, Any]:
    shape = (8, 8) if form == "matrix" else (6, 6, 6, 6)
    problem = htf.datasets.tensor_completion(shape, form, rank=2, observed=60, norm=8, seed=0, device=device)
    options: dict[str, Any] = {"init": htf.nn.init.gaussian(std=0.3), "runs": 2, "seed": 0, "dtype": torch.float64}
    network: Any
    if form == "matrix":
        network = htf.nn.MatrixFactorization(shape, 2, **options)
    elif form == "cp":
        network = htf.nn.CPNetwork(shape, 5, **options)
    else:
        network = htf.nn.HTNetwork(problem.tree, 6, 5, **options)
    return problem, network.to(device=device, dtype=dtype)


def _fit(form: str, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    problem, network = _problem(form, device, dtype)
    history = htf.training.fit(network, problem, lr=1e-3, steps=50)
    return [history.loss.double(), *network.parameters()]


def _resumed(first: str, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Half of the steps on one device, the rest on the other, from the checkpoint."""
    places = [torch.device(first or device), device if first else torch.device("cpu")]
    with tempfile.TemporaryDirectory() as folder:
        for place, steps in zip(places, (25, 50), strict=True):
            problem, network = _problem("ht", place, dtype)
            history = htf.training.fit(network, problem, lr=1e-3, steps=steps, out=folder)
    return [history.loss.double(), *network.parameters()]


def _classified(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """An epoch on the CPU, and one more on the device."""
    data = htf.datasets.pathfinder(path_length=3, size=32, train=64, validation=16, test=16, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        for place, epochs in ((torch.device("cpu"), 1), (device, 2)):
            model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(64, 4), nn.Softplus(), nn.Linear(4, 1))
            with torch.no_grad():
                for k, p in enumerate(model.parameters()):
                    p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(k)) / 4)
            model = model.to(dtype)
            settings = htf.training.ClassifySettings(epochs=epochs, batch_size=16)
            htf.training.classify(model, data, settings=settings, out=folder, device=place)
    return list(model.parameters())
