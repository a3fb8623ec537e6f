import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from htf.engine import log_domain, patterns
from htf.engine.patterns import share_patterns


def dense(value, first, table_rows):
    """How often each row of each node meets each leaf row, (nodes * rows, table rows)."""
    nodes, arity, rows = value.shape
    met = torch.zeros(nodes, rows, table_rows)
    leaf = first[:, :, None] + value
    for slot in range(arity):
        met.scatter_add_(2, leaf[:, slot, :, None], torch.ones(nodes, rows, 1))
    return met.flatten(0, 1)


def draw(nodes, arity, rows, sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(sizes)[torch.randint(0, len(sizes), (nodes, arity), generator=generator)]
    # Neighbouring modes share much, as pixels do.
    common = torch.rand(nodes, 1, rows, generator=generator).expand(nodes, arity, rows)
    own = torch.rand(nodes, arity, rows, generator=generator)
    value = (torch.where(own < 0.5, common, own) * size[:, :, None]).long()
    starts = size.flatten().cumsum(0) - size.flatten() + 3  # three leaf rows of another node
    return value, starts.view(nodes, arity), int(size.sum()) + 5


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 30),
    st.sampled_from([1, 2, 9, 140, 400]),
    st.sampled_from([[2], [1], [2, 3, 1], [40, 2]]),
    st.integers(0, 99),
)
def test_sums_are_those_over_the_rows_met(nodes, arity, rows, sizes, seed):
    value, first, table_rows = draw(nodes, arity, rows, sizes, seed)
    met = dense(value, first, table_rows)
    for row_bytes in (8, 2**14):  # one portion; many
        plan = share_patterns(value, first, table_rows, row_bytes, (0,))
        generator = torch.Generator().manual_seed(seed)
        x = torch.randint(-9, 10, (table_rows, 3), generator=generator).float()
        y = torch.randint(-9, 10, (nodes * rows, 3), generator=generator).float()
        assert torch.equal(log_domain._Sum.apply(x, plan, False), met @ x)
        assert torch.equal(log_domain._Sum.apply(y, plan, True), met.T @ y)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(0, 99))
def test_base_is_the_most_frequent_value_of_the_mode(nodes, arity, seed):
    value, first, table_rows = draw(nodes, arity, 50, [2, 3], seed)
    plan = share_patterns(value, first, table_rows, 8, (0,))
    often = dense(value, first, table_rows).sum(0)
    for node in range(nodes):
        for slot in range(arity):
            mode = first[node, slot] + torch.arange(int(value[node, slot].max()) + 1)
            base = plan.common[node, slot]
            assert base in mode
            assert often[base] == often[mode].max()
            taken = mode[often[mode] > 0]
            assert (plan.base[taken] == base).all()
    untouched = often == 0
    assert torch.equal(plan.base[untouched], torch.arange(table_rows)[untouched])


def test_what_is_shared_is_added_once():
    """Sixteen modes that vary as one have two patterns; independent ones share nothing beyond few modes."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randint(0, 2, (1, 1, 1000), generator=generator).expand(1, 16, 1000)
    first = 2 * torch.arange(16)[None]
    plan = share_patterns(one, first, 32, 8, (0,))
    assert plan.additions == 1000 + 2 * 16
    apart = torch.randint(0, 2, (1, 16, 1000), generator=generator)
    assert 1000 < share_patterns(apart, first, 32, 8, (0,)).additions < 1000 * 16 / 2


def test_long_sums_are_taken_in_pieces():
    value = torch.zeros(1, 3, 1000, dtype=torch.int64)
    plan = share_patterns(value, 2 * torch.arange(3)[None], 6, 8, (0,))
    lengths = plan.pieces.starts.diff(append=torch.tensor([len(plan.pieces.index)]))
    assert lengths.max() == patterns.ROWS_IN_TURN
    # Added in turn, so many numbers of 0.1 are off by 1e-4.
    one_mode = share_patterns(torch.zeros(1, 1, 60_000, dtype=torch.int64), torch.zeros(1, 1).long(), 2, 8, (0,))
    found = log_domain._Sum.apply(torch.full((60_000, 1), 0.1), one_mode, True)
    assert float(found[0]) == pytest.approx(6000, rel=8e-6)
