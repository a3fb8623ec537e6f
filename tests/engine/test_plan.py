import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htf import DimensionTree
from htf.engine import Layout, Plan
from htf.engine.distinct import buckets, distinct_tuples
from htf.nn import CPNetwork, HTNetwork


@settings(deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 4), st.integers(1, 60), st.sampled_from([2, 7, 2**31, 2**40]), st.integers(0, 9)
)
def test_distinct_tuples_number_what_unique_finds(nodes, arity, batch, size, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([0, size // 2, size - 1])
    slots = [values[torch.randint(0, 3, (nodes, batch), generator=generator)] for _ in range(arity)]
    found = distinct_tuples(slots, [torch.full((nodes,), size)] * arity)
    for node in range(nodes):
        tuples = torch.stack([slot[node] for slot in slots], 1)
        unique = torch.unique(tuples, dim=0)
        assert int(found.counts[node]) == len(unique)
        ids, first = found.ids[node], found.first[node]
        assert int(ids.max()) < len(unique)
        # A sample and the representative of its number have the same tuple.
        assert torch.equal(tuples[first[ids]], tuples)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=50))
def test_buckets_hold_every_node_once_with_rows_enough(counts):
    found = buckets(counts, 100)
    assert sorted(k for positions, _ in found for k in positions) == list(range(len(counts)))
    for positions, rows in found:
        assert all(counts[k] <= rows for k in positions)
        assert positions == sorted(positions)


def test_low_levels_of_binary_images_collapse():
    network = HTNetwork(DimensionTree.grid(16, 16), 2, 4, runs=3, seed=0)
    indices = torch.randint(0, 2, (2000, 256), generator=torch.Generator().manual_seed(0))
    plan = network.plan(indices)
    # Four binary pixels take 16 values; sixteen of them are all different in 2,000 random images.
    assert plan.steps[0].rows == 16
    assert plan.steps[1].rows == 2000
    unshared = 2000 * 3 * sum(3 * 4 + (4 * 4 if n != network.tree.root else 4) for n in network.tree.inner_nodes)
    assert plan.multiplications < 0.3 * unshared


def test_pair_nodes_of_a_small_completion_problem_are_shared():
    network = HTNetwork(DimensionTree.balanced(4), 8, 5, seed=0)
    plan = network.plan(torch.randint(0, 8, (2048, 4), generator=torch.Generator().manual_seed(0)))
    assert [step.rows for step in plan.steps] == [64, 2048]
    # Pairs of rows of five, the matrices of both nodes, the root's, and all pairs of their rows.
    assert plan.multiplications == 2 * 64 * 5 + 2 * 64 * 5 * 5 + 64 * 5 + 64 * 64 * 5
    assert "pairs of 64 x 64 rows" in str(plan)


def completion(dims, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, d, (batch,), generator=generator) for d in dims], 1)


class TestMeetings:
    """When the root multiplies groups of distinct rows."""

    def test_components_of_cp_are_what_is_added(self):
        plan = CPNetwork([16] * 3, [256, 3], seed=0).plan(completion([16] * 3, 20_000))
        assert "pairs of 16 x 256 rows" in str(plan)
        # As many components for each fit as the largest has; the pairs of two modes, and all triples.
        assert plan.multiplications == 2 * 256 * (256 + 16 * 256)
        several = CPNetwork([16] * 3, [256, 3], outputs=2, seed=0).plan(completion([16] * 3, 20_000))
        assert several.multiplications == 2 * 256 * (256 + 16 * 2 + 16 * 256 * 2)

    def test_the_cheapest_split_is_taken(self):
        plan = CPNetwork([2, 3, 40], 8, seed=0).plan(completion([2, 3, 40], 2000))
        assert "pairs of 6 x 40 rows" in str(plan)
        plan = CPNetwork([40, 3, 2], 8, seed=0).plan(completion([40, 3, 2], 2000))
        assert "pairs of 6 x 40 rows" in str(plan)

    def test_only_where_it_is_cheaper(self):
        # Few of many entries; many outputs; rows of samples at the root; leaves for the log domain; no indices.
        assert not CPNetwork([1000] * 3, 8, seed=0).plan(completion([1000] * 3, 500)).meets
        few, many = (
            HTNetwork(DimensionTree.balanced(4), 8, 64, outputs=n, seed=0).plan(completion([8] * 4, 2048))
            for n in (1, 100)
        )
        assert few.meets
        assert not many.meets
        assert not HTNetwork(DimensionTree.grid(8, 8), 2, 16, seed=0).plan(completion([2] * 64, 2000)).meets
        assert not CPNetwork([2] * 12, 8, seed=0).plan(completion([2] * 12, 2000)).meets
        assert CPNetwork([2] * 11, 8, seed=0).plan(completion([2] * 11, 2000)).meets

    def test_ranks_of_one_fit_do_not_pay_for_those_of_another(self):
        # Padded to the widest, twenty runs would hold seven times as many components.
        indices = completion([20] * 3, 1000)
        assert CPNetwork([20] * 3, [100] * 20, seed=0).plan(indices).meets
        assert not CPNetwork([20] * 3, [100] + [1] * 19, seed=0).plan(indices).meets

    def test_a_plan_serves_other_ranks_outputs_and_kinds(self):
        indices = completion([4] * 3, 300)
        plan = CPNetwork([4] * 3, 5, seed=0).plan(indices)
        tree = DimensionTree.balanced(3, 3)
        ht = HTNetwork(tree, 4, [2, 3], seed=0).plan(indices)
        assert plan.meets
        assert ht.meets
        for other in (
            CPNetwork([4] * 3, range(1, 16), seed=0),
            CPNetwork([4] * 3, [1, 2], outputs=3, seed=0),
            HTNetwork(tree, 4, [1, 2], outputs=2, seed=0),
        ):
            expected = other(indices)
            for each in (plan, ht):
                torch.testing.assert_close(other(each), expected)

    @pytest.mark.parametrize("batch", [300, 2048])
    def test_measured_memory_is_near_the_plan(self, batch, monkeypatch):
        # That of products with scales, of which the others keep a part.
        monkeypatch.setattr("htf.nn.networks.tree.contract_unscaled", lambda *given: None)
        network = HTNetwork(DimensionTree.balanced(4), 8, 128, runs=3, seed=0)
        plan = network.plan(completion([8] * 4, batch))
        own = {p.untyped_storage().data_ptr() for p in network.parameters()}
        kept = {}

        def count(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            output = network(plan)
        assert plan.meets
        assert 0.5 * plan.peak_bytes < sum(n for key, n in kept.items() if key not in own) < 1.1 * plan.peak_bytes
        assert output.shape == (batch, 3)


def test_all_combinations_of_values_are_not_gathered():
    tree = DimensionTree.balanced(8)
    every = torch.cartesian_prod(*[torch.arange(2)] * 8)
    network = HTNetwork(tree, 2, 3, seed=0)
    assert [type(step.inputs).__name__ for step in network.plan(every).steps] == ["Outer", "Outer", "Pairs"]
    # Without (1, 1) in the first two modes the pairs are not all there, and those of the other nodes lie apart.
    some = every[~every[:, :2].all(1)]
    kinds = {type(step.inputs).__name__ for step in network.plan(some).steps}
    assert "Gather" in kinds
    torch.testing.assert_close(network(some), network(every)[~every[:, :2].all(1)])


def test_costs_are_counted_exactly_for_a_small_plan():
    network = CPNetwork([2] * 20, [1, 2], seed=0)
    plan = network.plan(torch.randint(0, 2, (50, 20), generator=torch.Generator().manual_seed(0)))
    # For 3 components: 10 pairs of modes of 4 patterns of 2 values, 50 samples that meet one pattern of each pair, and
    # the identity of each component at the root.
    assert plan.multiplications == 3 * (10 * 4 * 2 + 50 * 10) + 50 * 3


def test_modes_of_one_value_cost_next_to_nothing():
    network = CPNetwork([2] * 24, 1, seed=0)
    indices = torch.randint(0, 2, (50, 24), generator=torch.Generator().manual_seed(0))
    indices[:, 8:] = 1
    # Four pairs, two groups of eight values that all samples meet, and the identity at the root.
    assert network.plan(indices).multiplications == 4 * 4 * 2 + 2 * 8 + 50 * (4 + 2) + 50


def test_prints_steps_costs_and_memory():
    network = HTNetwork(DimensionTree.grid(4, 4), 2, 4, seed=0)
    text = str(network.plan(torch.zeros(10, 16, dtype=torch.int64)))
    assert "10 samples of order 16" in text
    assert "multiplications forward" in text
    assert "MiB at the peak" in text


def test_measured_memory_is_near_the_plan():
    network = HTNetwork(DimensionTree.grid(16, 16), 2, 16, seed=0)
    indices = torch.randint(0, 2, (4000, 256), generator=torch.Generator().manual_seed(0))
    plan = network.plan(indices)
    kept = {}

    def count(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        output = network(plan)
    # What the graph holds while the output lives; the plan also counts what comes and goes.
    assert 0.5 * plan.peak_bytes < sum(kept.values()) < 1.1 * plan.peak_bytes
    assert output.shape == (4000, 1)


def test_a_plan_serves_other_widths_and_runs():
    tree = DimensionTree.grid(4, 4)
    indices = torch.randint(0, 2, (30, 16), generator=torch.Generator().manual_seed(0))
    plan = HTNetwork(tree, 2, 4, seed=0).plan(indices)
    other = HTNetwork(tree, 2, 3, runs=2, seed=0)
    assert torch.equal(other(plan), other(indices))


def test_nothing_to_plan_for():
    with pytest.raises(ValueError, match="no samples"):
        CPNetwork([2, 2], 1).plan(torch.zeros(0, 2, dtype=torch.int64))


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        yield from tensors_in([getattr(value, each.name) for each in dataclasses.fields(value)])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


@pytest.mark.parametrize("order", [4, 9, 16])
def test_the_memory_of_a_plan_is_that_of_its_tensors(order):
    network = CPNetwork((2,) * order, 3, seed=0)
    plan = network.plan(torch.randint(0, 2, (50, order), generator=torch.Generator().manual_seed(0)))
    counted = sum(t.numel() * t.element_size() for step in plan.steps for t in tensors_in(step.inputs))
    assert 0 < plan.n_bytes <= counted
    assert plan.n_bytes > 0.5 * counted


def test_multiplications_of_encoded_vectors_begin_at_the_leaves():
    network = HTNetwork(DimensionTree.balanced(2), [5, 5], 3, seed=0)
    for runs in (1, 2):
        plan = Plan(network._layout, batch=7, runs=runs)
        # Two leaves of 5 x 3, one product of vectors of 3, and the root's column.
        assert plan.multiplications == runs * 7 * (2 * 5 * 3 + 3 + 3)


def test_children_in_the_order_of_their_table_are_a_view():
    for tree, kinds in ((DimensionTree.balanced(8), 3 * ["Aligned"]), (DimensionTree.linear(3), 2 * ["Stacked"])):
        plan = Plan(HTNetwork(tree, 2, 3, seed=0)._layout, batch=7)
        assert [type(step.inputs).__name__ for step in plan.steps] == kinds


def test_costs_of_rows_that_are_gathered():
    every = torch.cartesian_prod(*[torch.arange(8)] * 4)
    some = every[(every[:, :2].sum(1) < 14) & (every[:, 2:].sum(1) < 14)]  # without (7, 7) in either pair
    plan = HTNetwork(DimensionTree.balanced(4), 8, 5, seed=0).plan(some)
    assert [type(step.inputs).__name__ for step in plan.steps] == ["Gather", "Pairs"]
    # 63 products of rows of five at each pair node, its matrix, the root's column, and all pairs of their rows.
    assert plan.multiplications == 2 * 63 * 5 + 2 * 63 * 5 * 5 + 63 * 5 + 63 * 63 * 5
    # Of each product both factors and the result are kept, then twice the mixed rows; at the root the weighted rows,
    # the grid and the outputs, each with its gradient.
    entries = 3 * 2 * 63 * 5 + 2 * 2 * 63 * 5 + 63 * 5 + 2 * 63 * 63 + 2 * len(some)
    assert entries * 4 <= plan.peak_bytes - plan.n_bytes <= (entries + 2 * 2 * 63 * 5) * 4


def test_layouts_have_one_output_by_default():
    assert Layout.build(DimensionTree.balanced(2), 3, 2).outputs == 1
