"""Attention and recurrent layers, embeddings, and convolutions of all kinds, with factorized weights."""

import copy

import pytest
import torch
from torch import nn

from htf.nn import (
    FactorizedConv1d,
    FactorizedConv2d,
    FactorizedConv3d,
    FactorizedConvTranspose2d,
    FactorizedEmbedding,
    FactorizedLinear,
)
from htf.nn.layers.factorized.choice import NAMES
from htf.surgery import collapse, factorize, truncate


class Language(nn.Module):
    """An embedding, recurrent layers and a projection."""

    def __init__(self, kind=nn.LSTM, tied=False, **options):
        super().__init__()
        self.table = nn.Embedding(60, 16)
        self.recurrent = kind(16, 24, num_layers=2, batch_first=True, **options)
        width = options.get("proj_size") or 24 * (2 if options.get("bidirectional") else 1)
        self.project = nn.Linear(width, 16)
        self.words = nn.Linear(16, 60, bias=False)
        if tied:
            self.words.weight = self.table.weight

    def forward(self, tokens):
        return self.words(self.project(self.recurrent(self.table(tokens))[0]))


def seeded(make, seed=0):
    torch.manual_seed(seed)
    return make().double()


TOKENS = torch.randint(0, 60, (3, 7), generator=torch.Generator().manual_seed(0))
RECURRENT = {
    "lstm": lambda: Language(nn.LSTM),
    "projected lstm": lambda: Language(nn.LSTM, proj_size=8),
    "both ways": lambda: Language(nn.LSTM, bidirectional=True),
    "gru": lambda: Language(nn.GRU, bias=False),
    "rnn": lambda: Language(nn.RNN, nonlinearity="relu"),
}


def dense_twin(small, plain):
    """The plain model with the weights that the factorized one stands for."""
    twin = copy.deepcopy(plain)
    folded = collapse(small)
    twin.load_state_dict(folded.state_dict())
    return twin


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_have_each_matrix_factorized(name):
    model = seeded(RECURRENT[name])
    small, report = factorize(model, "ht", rank=4, with_report=True)
    changed = {row.name for row in report.rows}
    assert {"recurrent.weight_ih_l0", "recurrent.weight_hh_l1", "table", "words"} <= changed
    assert isinstance(small.recurrent, type(model.recurrent))
    assert isinstance(small.recurrent.weight_ih_l0, FactorizedLinear)
    assert isinstance(small.table, FactorizedEmbedding)
    assert report.parameters_after == sum(p.numel() for p in small.parameters()) < report.parameters_before
    assert type(model.recurrent) in (nn.LSTM, nn.GRU, nn.RNN)
    # The outputs are those of torch's own layers with the products of the factors.
    folded = dense_twin(small, model)
    torch.testing.assert_close(small(TOKENS), folded(TOKENS))
    small(TOKENS).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in small.parameters())
    again = copy.deepcopy(small)
    torch.testing.assert_close(again(TOKENS), small(TOKENS))
    assert again.float()(TOKENS).dtype == torch.float32
    other = factorize(seeded(RECURRENT[name], 1), "ht", rank=4)
    other.load_state_dict(small.state_dict())
    torch.testing.assert_close(other(TOKENS), small(TOKENS))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"kdim": 12, "vdim": 10}, {"bias": False, "add_bias_kv": True}])
def test_attention(options, batch_first):
    model = seeded(lambda: nn.MultiheadAttention(16, 4, batch_first=batch_first, **options))
    small, report = factorize(model, "matrix", rank=3, with_report=True)
    names = {"q_proj", "k_proj", "v_proj"} if "kdim" in options else {"in_proj"}
    assert {row.name for row in report.rows} == names | {"out_proj"}
    query = torch.randn(5, 6, 16, dtype=torch.float64)
    key, value = (torch.randn(5, 6, options.get(k, 16), dtype=torch.float64) for k in ("kdim", "vdim"))
    twin = dense_twin(small, model)
    for mode in (True, False):
        for each in (small, twin):
            each.train(mode)
        torch.testing.assert_close(small(query, key, value), twin(query, key, value))
        with torch.no_grad():
            torch.testing.assert_close(small(query, key, value), twin(query, key, value))
    small(query, key, value)[0].square().sum().backward()
    assert all(p.grad is not None for p in small.parameters())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_transformer_keeps_far_fewer_parameters():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    model = seeded(lambda: nn.TransformerEncoder(layer, 2))
    small, report = factorize(model, "tt", rank=0.3, with_report=True)
    assert report.parameters_after < 0.4 * report.parameters_before
    x = torch.randn(3, 5, 32, dtype=torch.float64)
    twin = dense_twin(small, model)
    for mode in (True, False):
        for each in (small, twin):
            each.train(mode)
        with torch.no_grad():
            torch.testing.assert_close(small(x), twin(x))
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 3:] = True
    with torch.no_grad():
        torch.testing.assert_close(
            small(x, src_key_padding_mask=mask)[~mask], twin(x, src_key_padding_mask=mask)[~mask]
        )


def test_a_language_model_keeps_far_fewer_parameters():
    _, report = factorize(seeded(Language), "matrix", rank=0.3, with_report=True)
    assert report.parameters_after < 0.4 * report.parameters_before


def test_what_is_not_factorized_stays_as_it_was():
    model = seeded(Language)
    small = factorize(model, "matrix", rank=2, types=nn.Linear)
    assert type(small.recurrent) is nn.LSTM
    assert type(small.table) is nn.Embedding
    assert list(small.state_dict())[:3] == ["table.weight", "recurrent.weight_ih_l0", "recurrent.weight_hh_l0"]
    # Too large a rank for any matrix of the recurrent layer to become smaller.
    small = factorize(nn.Sequential(model.recurrent, nn.Linear(60, 60)).double(), "matrix", rank=20)
    assert type(small[0]) is nn.LSTM
    x = torch.ones(1, 2, 16, dtype=torch.float64)
    torch.testing.assert_close(small[0](x), model.recurrent(x))
    only, report = factorize(model, "matrix", rank=2, types=nn.LSTM, with_report=True)
    assert all(row.name.startswith("recurrent.") for row in report.rows)
    assert {name: reason for name, _, reason in report.left_alone} == dict.fromkeys(
        ("table", "project", "words"), "its type was not asked for"
    )
    assert type(only.project) is nn.Linear
    named = factorize(model, "matrix", rank=2, modules="recurrent.weight_hh_l1")
    assert isinstance(named.recurrent.weight_hh_l1, FactorizedLinear)
    assert type(named.recurrent.weight_ih_l0) is nn.Linear


def test_truncated_and_collapsed():
    model = seeded(Language)
    small = factorize(model, "matrix", rank=6)
    report = truncate(small, rank=2)
    assert report.parameters_after < report.parameters_before
    before = small(TOKENS)
    folded = collapse(small)
    assert type(folded.recurrent) is nn.LSTM
    assert list(folded.recurrent.state_dict()) == list(model.recurrent.state_dict())
    torch.testing.assert_close(folded(TOKENS), before)


def test_tied_tables_share_their_factors():
    model = seeded(lambda: Language(tied=True))
    for format in ("ht", "matrix"):
        small = factorize(model, format, rank=4)
        assert isinstance(small.table, FactorizedEmbedding)
        assert isinstance(small.words, FactorizedLinear)
        assert all(a is b for a, b in zip(small.table.factors, small.words.factors, strict=True))


def test_reasons():
    model = seeded(Language)
    model.recurrent = nn.utils.parametrizations.weight_norm(model.recurrent, "weight_hh_l0")
    model.table.max_norm = 1.0
    model.again = nn.GRU(8, 8)
    model.again.weight_hh_l0 = model.again.weight_ih_l0
    _, report = factorize(model.double(), "matrix", rank=2, with_report=True)
    told = {name: reason for name, _, reason in report.left_alone}
    assert "parametrized" in told["recurrent"]
    assert told["table"] == "max_norm is 1.0; a factorized table has no rows of its own for it"
    assert "shared" in told["again"]


@pytest.mark.parametrize("format", NAMES)
@pytest.mark.parametrize(
    ("make", "shape", "kind"),
    [
        (lambda: nn.Conv1d(6, 8, 5, 2, 3, 2, groups=2, padding_mode="circular"), (6, 20), FactorizedConv1d),
        (lambda: nn.Conv1d(6, 8, 3, padding="same", bias=False), (6, 20), FactorizedConv1d),
        (lambda: nn.Conv2d(6, 8, 3, padding=1, groups=2), (6, 7, 8), FactorizedConv2d),
        (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 7, 8), FactorizedConv2d),
        (lambda: nn.Conv3d(4, 6, (3, 2, 3), padding=(1, 0, 1)), (4, 5, 6, 7), FactorizedConv3d),
        (lambda: nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, groups=2, dilation=2), (6, 5, 6), FactorizedConvTranspose2d),
        (lambda: nn.ConvTranspose1d(6, 4, 3, 2), (6, 5), None),
        (lambda: nn.ConvTranspose3d(3, 4, 2, 2, bias=False), (3, 3, 4, 5), None),
    ],
)
def test_convolutions_of_all_kinds(make, shape, kind, format):
    model = seeded(lambda: nn.Sequential(make()))
    small = factorize(model, format, rank=1)
    layer = small[0]
    assert kind is None or type(layer) is kind
    x = torch.randn(2, *shape, dtype=torch.float64)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.copy_(layer.weight)
    torch.testing.assert_close(small(x), twin(x))
    torch.testing.assert_close(small(x[0]), twin(x[0]))
    torch.testing.assert_close(collapse(small)(x), twin(x))
    small(x).square().sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    # Decomposed at full rank it is the layer.
    if format != "cp":
        whole = type(layer).from_plain(model[0], format, rank=max(layer._layout.bounds))
        torch.testing.assert_close(whole(x), model(x))
        assert whole.truncated(rank=1).rank == layer.rank
    drawn = factorize(model, format, rank=1, start="random", seed=0)
    assert type(drawn[0]) is type(layer)
    assert float(drawn[0].set_weight(layer.weight.detach().clone())) < 1e-6


def test_transposed_convolutions_take_an_output_size():
    plain = nn.ConvTranspose2d(4, 3, 3, 2)
    layer = FactorizedConvTranspose2d.from_plain(plain, "matrix", rank=4)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(layer(x, output_size=(12, 12)), plain(x, output_size=(12, 12)), rtol=1e-4, atol=1e-5)
    assert "output_padding=(0, 0)" in repr(layer)


@pytest.mark.parametrize("format", NAMES)
def test_embedding_rows_are_those_of_the_table(format):
    layer = FactorizedEmbedding(90, 24, 7, format=format, rank=0.3, seed=0, dtype=torch.float64)
    few, many = torch.tensor([[3, 89], [7, 0]]), torch.arange(90).repeat(40)
    for indices in (few, many, few[0, 0]):
        found = layer(indices)
        torch.testing.assert_close(found, layer.weight[indices])
        wanted = torch.where((indices == 7)[..., None], 0.0, 1.0).expand_as(found)
        mine = torch.autograd.grad((found * torch.arange(24.0)).sum(), list(layer.factors))
        dense = torch.autograd.grad((layer.weight[indices] * wanted * torch.arange(24.0)).sum(), list(layer.factors))
        torch.testing.assert_close(mine, dense)
    layer(few)
    assert layer.applies == "factor by factor"
    for wrong in (90, -1):
        with pytest.raises(IndexError):
            layer(torch.tensor([wrong]))
    if format == "matrix":
        assert 0.6 < float(layer.weight.detach().square().mean()) < 1.6
    torch.testing.assert_close(layer.plain()(few), layer(few))
    assert layer.truncated(rank=1)(few).shape == (2, 2, 24)
    with pytest.raises(ValueError, match="padding_idx is 90"):
        FactorizedEmbedding(90, 24, 90)
    with pytest.raises(ValueError, match="sparse is True"):
        FactorizedEmbedding.from_plain(nn.Embedding(4, 4, sparse=True), rank=1)
