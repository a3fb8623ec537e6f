"""One test case that every factorization inherits: it says how to make one and what it is densely."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytest
import torch
from dense import all_indices
from torch import Tensor

import htf


class FactorizationTestCase(ABC):
    """Values and gradients against the dense tensor, by every way in.

    Subclasses supply `make` and `dense`; entries are drawn so that negative values and exact zeros occur.
    """

    @abstractmethod
    def make(self, dtype: torch.dtype) -> htf.nn.CPNetwork | htf.nn.HTNetwork: ...

    @abstractmethod
    def dense(self, network, run: int) -> Tensor:
        """Shape dims, or dims + (outputs,)."""

    def network(self, dtype: torch.dtype = torch.float64):
        network = self.make(dtype)
        with torch.no_grad():
            for parameter in network.parameters():
                flat = parameter.view(-1)
                flat[:: max(len(flat) // 3, 2)] = 0
        return network

    def values(self, network, run: int) -> Tensor:
        return network(all_indices(network.dims))[:, run].unflatten(0, network.dims)

    def assert_gradients_agree(self, network, ours: Tensor, dense: Tensor, tolerance: float) -> None:
        weight = torch.randn(dense.shape, dtype=dense.dtype, generator=torch.Generator().manual_seed(5))
        parameters = list(network.parameters())
        found = torch.autograd.grad((ours * weight).sum(), parameters)
        expected = torch.autograd.grad((dense * weight).sum(), parameters)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
    def test_outputs_on_all_indices_are_the_tensor(self, dtype, tolerance):
        network = self.network(dtype)
        for run in range(network.runs):
            ours, dense = self.values(network, run), self.dense(network, run)
            torch.testing.assert_close(ours, dense, rtol=tolerance, atol=tolerance)
            self.assert_gradients_agree(network, ours, dense, tolerance)

    def test_encoded_vectors_contract_the_tensor(self):
        network = self.network()
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(7, network.order, max(network.dims), dtype=torch.float64, generator=generator)
        for run in range(network.runs):
            expected = self.dense(network, run).expand(7, *[-1] * self.dense(network, run).ndim)
            for mode, dim in enumerate(network.dims):
                expected = torch.einsum("bi...,bi->b...", expected, x[:, mode, :dim])
            ours = network(x)[:, run]
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
            self.assert_gradients_agree(network, ours, expected, 1e-8)

    def test_one_hot_vectors_are_indices(self):
        network = self.network()
        indices = all_indices(network.dims)
        vectors = torch.nn.functional.one_hot(indices, max(network.dims)).double()
        torch.testing.assert_close(network(vectors), network(indices), rtol=1e-10, atol=1e-10)

    def test_plan_with_repeated_samples_gives_what_indices_give(self):
        network = self.network()
        generator = torch.Generator().manual_seed(2)
        indices = torch.stack([torch.randint(0, d, (200,), generator=generator) for d in network.dims], 1)
        some = network(all_indices(network.dims))
        flat = torch.zeros(200, dtype=torch.int64)
        for mode, dim in enumerate(network.dims):
            flat = flat * dim + indices[:, mode]
        torch.testing.assert_close(network(network.plan(indices)), some[flat], rtol=1e-10, atol=1e-10)

    def test_second_derivatives(self):
        network = self.network()
        parameters = list(network.parameters())
        x = torch.randn(3, network.order, max(network.dims), dtype=torch.float64, requires_grad=True)

        def curvature(y: Tensor) -> Tensor:
            (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
            return g.square().sum()

        def dense(run: int) -> Tensor:
            y = self.dense(network, run).expand(3, *[-1] * self.dense(network, run).ndim)
            for mode, dim in enumerate(network.dims):
                y = torch.einsum("bi...,bi->b...", y, x[:, mode, :dim])
            return y

        expected = sum(curvature(dense(run)) for run in range(network.runs))
        found = sum(curvature(network(x)[:, run]) for run in range(network.runs))
        for a, b in zip(torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7 * float(b.abs().max() + 1))

    def test_runs_are_independent(self):
        network = self.network()
        if network.runs == 1:
            pytest.skip("one run only")
        indices = all_indices(network.dims)
        before = network(indices)
        with torch.no_grad():
            for matrix in network.parameters_for(0).values():
                matrix.fill_(float("inf"))
        after = network(indices)
        torch.testing.assert_close(after[:, 1:], before[:, 1:])
        gradients = torch.autograd.grad(after.square().sum(), list(network.parameters()))
        marks = network.spread(torch.arange(network.runs) > 0)
        for gradient, mark in zip(gradients, marks, strict=True):
            assert gradient[mark.expand_as(gradient)].isfinite().all()

    def test_parameters_for_covers_the_count(self):
        network = self.network()
        for run in range(network.runs):
            own = network.parameters_for(run)
            if not getattr(network, "shared", False):
                assert sum(m.numel() for m in own.values()) == network.n_parameters(run)

    def test_rescale_multiplies_the_tensor(self):
        network = self.network()
        before = self.values(network, network.runs - 1).detach()
        network.rescale_(torch.full((network.runs,), 3.0, dtype=torch.float64))
        torch.testing.assert_close(self.values(network, network.runs - 1), 3 * before)

    def test_no_samples(self):
        network = self.network()
        assert network(torch.zeros(0, network.order, dtype=torch.int64)).shape[:2] == (0, network.runs)

    def test_state_survives_saving(self, tmp_path):
        network = self.network()
        torch.save(network.state_dict(), tmp_path / "state.pt")
        other = self.make(torch.float64)
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        indices = all_indices(network.dims)
        assert torch.equal(network(indices), other(indices))

    def test_run_norms_are_norms_of_each_runs_part(self):
        network = self.network()
        generator = torch.Generator().manual_seed(6)
        gradients = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in network.parameters()]
        found = network.run_norms(gradients)
        assert found.shape == (network.runs,)
        for run in range(network.runs):
            marks = network.spread((torch.arange(network.runs) == run).double())
            own = torch.cat([(g * mark).flatten() for g, mark in zip(gradients, marks, strict=True)])
            torch.testing.assert_close(found[run], own.norm())


class TreeFactorizationTestCase(FactorizationTestCase):
    """What CP and HT networks share besides: a root that meets, and one that goes sample by sample."""

    def check_against_dense(self, network, indices: Tensor, inputs) -> None:
        """Values, first and second derivatives."""
        parameters = list(network.parameters())
        flat = torch.zeros(len(indices), dtype=torch.int64)
        for mode, dim in enumerate(network.dims):
            flat = flat * dim + indices[:, mode]

        def dense() -> Tensor:
            tensors = [self.dense(network, run).flatten(0, network.order - 1) for run in range(network.runs)]
            return torch.stack([tensor[flat] for tensor in tensors], 1)

        torch.testing.assert_close(network(inputs), dense(), rtol=1e-10, atol=1e-10)
        self.assert_gradients_agree(network, network(inputs), dense(), 1e-9)

        def curvature(y: Tensor) -> tuple[Tensor, ...]:
            first = torch.autograd.grad(y.square().mean(), parameters, create_graph=True)
            return torch.autograd.grad(sum(g.square().sum() for g in first), parameters)

        for a, b in zip(curvature(network(inputs)), curvature(dense()), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9 * float(b.abs().max() + 1))

    @pytest.mark.parametrize("meeting", [True, False])
    def test_both_ways_to_the_root_agree_with_the_tensor(self, meeting, monkeypatch):
        network = self.network()
        if not meeting:
            monkeypatch.setattr(htf.engine.build, "cheapest_groups", lambda *_: None)
        # Every entry several times, in disorder: what meetings are for, unless the root has very many leaves.
        entries = all_indices(network.dims).repeat(3, 1)
        indices = entries[torch.randperm(len(entries), generator=torch.Generator().manual_seed(4))]
        plan = network.plan(indices)
        assert plan.meets == (meeting and len(network.tree.children(network.tree.root)) < 12)
        self.check_against_dense(network, indices, plan)

    @pytest.mark.parametrize("batch", [1, 2, 9, 40])
    def test_any_samples_agree_with_the_tensor(self, batch):
        network = self.network()
        generator = torch.Generator().manual_seed(batch)
        indices = torch.stack([torch.randint(0, d, (batch,), generator=generator) for d in network.dims], 1)
        self.check_against_dense(network, indices, indices)
