"""Representations of results fit on a screen, whatever they hold."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import pytest
import torch

import htf
from htf.dynamics import compare_rates, phases, singular_values

# What is passed to functions, rather than returned: shown as it is written.
ARGUMENTS = {"CPStudy", "ClassifySettings", "FitSettings", "FolderJob", "HTStudy", "MatrixStudy", "StudySettings"}


def public_dataclasses():
    found = {}
    for info in pkgutil.walk_packages(htf.__path__, "htf."):
        if not info.ispkg or any(part.startswith("_") for part in info.name.split(".")):
            continue
        module = importlib.import_module(info.name)
        for name in set(getattr(module, "__all__", ())) - ARGUMENTS:
            kind = getattr(module, name)
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                found[f"{kind.__module__}.{name}"] = kind
    return [pytest.param(kind, id=name) for name, kind in sorted(found.items())]


def stuffed(annotation):
    """A large value of an annotated type."""
    if "Tensor" in annotation and "dict[" not in annotation:
        return torch.linspace(0, 1, 10_000).reshape(100, 100)
    if "dict[" in annotation or "Mapping[" in annotation:
        return {f"name {k}": torch.ones(100) for k in range(1000)}
    if annotation.startswith(("list[", "Sequence[")) or (annotation.startswith("tuple[") and "..." in annotation):
        return (0.1234567,) * 1000
    return "text " * 10 if "str" in annotation else None if "Callable" in annotation else 0.5


@pytest.mark.parametrize("kind", public_dataclasses())
def test_every_public_dataclass_is_shown_in_a_few_lines(kind):
    instance = object.__new__(kind)
    for field in dataclasses.fields(kind):
        object.__setattr__(instance, field.name, stuffed(str(field.type)))
    text = repr(instance)
    assert text.startswith(kind.__name__)
    assert len(text) < 2000
    assert len(text.splitlines()) <= 20


@pytest.fixture(scope="module")
def history():
    problem = htf.datasets.tensor_completion((16, 16), "matrix", rank=2, observed=100, seed=0)
    network = htf.nn.MatrixFactorization((16, 16), depth=3, init=htf.nn.init.balanced(1e-3), seed=0)
    return htf.training.fit(network, problem, steps=60, every=1, track=singular_values())


def test_a_history_says_what_it_is(history):
    text = repr(history)
    assert f"loss=float64 ({len(history.steps)}, 1), {float(history.loss.min()):.4g}" in text
    assert "tracked=1 entries: singular_values" in text
    assert "stopped='steps'" in text
    for result in (history, *phases(history), compare_rates(history), *compare_rates(history).groups.values()):
        assert len(repr(result)) < 1500


def test_what_is_not_a_number_is_no_range():
    rates = dataclasses.replace(_rates(), value=torch.full((3, 2), torch.nan), measured=torch.empty(0))
    assert "value=float32 (3, 2), NaN" in repr(rates)
    assert "measured=float32 []" in repr(rates)
    assert "start=float32 [1.0, 2.0]" in repr(rates)
    assert "end=float32 (2,) on meta" in repr(rates)
    assert "step=bool (3, 2)" in repr(rates)


def _rates():
    kind = htf.dynamics.RateRecords
    values = {field.name: torch.tensor([1.0, 2.0]) for field in dataclasses.fields(kind)}
    return kind(**{**values, "end": torch.ones(2, device="meta"), "step": torch.ones(3, 2, dtype=torch.bool)})


@pytest.mark.parametrize("order", [3, 16, 500])
def test_tensors_and_networks_are_shown_in_a_few_lines(order):
    x = htf.random_ht((2,) * order, 2, random_state=0)
    networks = htf.nn.CPNetwork((2,) * order, 2, seed=0), htf.nn.HTNetwork(x.tree, (2,) * order, 2, seed=0)
    for shown in (x, x.tree, *networks):
        assert len(repr(shown)) < 2000
        assert len(repr(shown).splitlines()) <= 45
