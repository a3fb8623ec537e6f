import pytest
import torch
from surgery_cases import branches, cnn
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

from htf.nn.layers.drop_in import DropInLayer
from htf.nn.layers.overparam import OverparamConv2d, OverparamLinear
from htf.surgery import collapse, factorize, overparameterize, truncate


def changed(model):
    return [name for name, module in model.named_modules() if isinstance(module, DropInLayer)]


def reasons(model, **options):
    _, report = overparameterize(model, with_report=True, **options)
    return {name: reason for name, _, reason in report.left_alone}


def test_by_default_all_linear_layers_and_convolutions():
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3), nn.Linear(3, 2), nn.ReLU())
    deep = overparameterize(model)
    assert [type(layer).__name__ for layer in deep] == [
        "OverparamConv1d",
        "OverparamConv2d",
        "OverparamConv3d",
        "OverparamLinear",
        "ReLU",
    ]
    assert not changed(model)


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["stem"], ["stem.0"]),
        ("stem", ["stem.0"]),
        (["blocks.1"], ["blocks.1", "again"]),
        (["again"], ["blocks.1", "again"]),
        (["heads.*"], ["heads.first", "heads.second"]),
        (["*.0"], ["stem.0", "blocks.0"]),
        (["s*m", "heads"], ["stem.0", "heads.first", "heads.second"]),
    ],
)
def test_names_and_patterns_select_what_is_below_them(modules, expected):
    deep = overparameterize(branches(), modules=modules)
    names = [name for name, module in deep.named_modules(remove_duplicate=False) if isinstance(module, DropInLayer)]
    assert names == expected


def test_types():
    model = branches()
    assert changed(overparameterize(model, types=nn.Linear)) == ["heads.first", "heads.second"]
    assert changed(overparameterize(model, types=[nn.Conv2d])) == ["stem.0", "blocks.0", "blocks.1"]
    assert reasons(model, types=nn.Linear)["stem.0"] == "its type was not asked for"
    with pytest.raises(TypeError, match=r"types has 'Embedding'; expected some of Linear, Conv1d, Conv2d, Conv3d"):
        overparameterize(model, types=(nn.Embedding,))
    with pytest.raises(TypeError, match=r"types has 'Bilinear'; expected some of Linear, Conv1d, .*, LSTM, GRU"):
        factorize(model, rank=1, types=(nn.Bilinear,))
    with pytest.raises(ValueError, match=r"stem.0 \(Conv2d\): its type was not asked for"):
        factorize(model, rank=1, types=(nn.Conv1d, nn.LSTM))
    with pytest.raises(TypeError, match="types has 'Linear'; expected some of"):
        overparameterize(model, types="Linear")
    with pytest.raises(ValueError, match="types is empty"):
        overparameterize(model, types=())


@pytest.mark.parametrize("change", [overparameterize, lambda model, **given: factorize(model, rank=1, **given)])
def test_names_that_fit_nothing(change):
    model = branches()
    with pytest.raises(ValueError, match=r"modules has 'heads.frist', which fits no module.*near are heads.first"):
        change(model, modules=["heads.frist"])
    with pytest.raises(ValueError, match="modules is empty"):
        change(model, modules=[])
    with pytest.raises(TypeError, match="modules has 3; expected names"):
        change(model, modules=[3])
    with pytest.raises(TypeError, match="modules is 3; expected names"):
        change(model, modules=3)
    with pytest.raises(
        ValueError, match=r"modules has 'stem.2', where nothing can be changed: stem.2 \(ReLU\): it has"
    ):
        change(model, modules=["stem.2"])
    with pytest.raises(ValueError, match=r"'stem.1'.*stem.1 \(BatchNorm2d\): not a linear layer or convolution"):
        change(model, modules=["stem.0", "stem.1"])


@pytest.mark.parametrize("change", [overparameterize, lambda model: factorize(model, rank=1)])
def test_models_without_weights(change):
    with pytest.raises(ValueError, match="model has no layer with weights that can be"):
        change(nn.Sequential(nn.ReLU(), nn.Flatten()))
    with pytest.raises(ValueError, match=r"that can be .*: 0 \(EmbeddingBag\): not a linear layer"):
        change(nn.Sequential(nn.EmbeddingBag(3, 2)))
    with pytest.raises(TypeError, match=r"model is a list; expected a torch\.nn\.Module"):
        change([nn.Linear(2, 2)])


def test_layers_without_weights_in_a_model_to_be_cut_or_collapsed():
    with pytest.raises(ValueError, match="no over-parameterized or factorized layers; expected one"):
        truncate(cnn(), tol=0.1)
    with pytest.raises(ValueError, match="perhaps it was collapsed before"):
        collapse(collapse(overparameterize(cnn())))


# -- layers that cannot be changed ----------------------------------------------------------------------


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def weight_hooked():
    layer = nn.Linear(4, 4)
    layer.weight.register_hook(lambda grad: grad)
    return layer


def state_hooked():
    layer = nn.Linear(4, 4)
    layer.register_state_dict_post_hook(lambda *arguments: None)
    return layer


def buffered():
    layer = nn.Linear(4, 4)
    layer.register_buffer("mask", torch.ones(4))
    return layer


def patched():
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x
    return layer


def old_weight_norm():
    with pytest.warns(FutureWarning, match="weight_norm"):
        return weight_norm(nn.Linear(4, 4))


ODD = {
    "subclass": (lambda: Doubled(4, 4), "a subclass of Linear may use its weight in another way"),
    "lazy": (lambda: nn.LazyLinear(4), "no weights yet; call the model once first"),
    "parametrized": (lambda: parametrizations.orthogonal(nn.Linear(4, 4)), "parametrized"),
    "weight_norm": (old_weight_norm, "its weight is made from other parameters"),
    "pruned": (lambda: prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5), "its weight is made from other"),
    "transposed": (lambda: nn.ConvTranspose2d(4, 4, 1), "transposed convolutions"),
    "bilinear": (lambda: nn.Bilinear(4, 4, 4), "not a linear layer or convolution"),
    "lstm": (lambda: nn.LSTM(4, 4), "not a linear layer or convolution"),
    "weight hooks": (weight_hooked, "hooks are registered on its parameters"),
    "state hooks": (state_hooked, "hooks are registered on its state_dict"),
    "buffer": (buffered, "buffers or modules of its own"),
    "forward": (patched, "its forward was replaced"),
    "complex": (lambda: nn.Linear(4, 4).requires_grad_(False).to(torch.complex64), "dtype torch.complex64"),
    "no features": (lambda: torch.nn.utils.skip_init(nn.Linear, 0, 4), "shape (4, 0)"),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore:Complex modules", "ignore:Initializing zero-element")
def test_odd_layers_are_left_alone_and_refused_by_name(name):
    make, reason = ODD[name]
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(make()))
    told = reasons(model)
    assert list(told) == ["1.0"]
    assert reason in told["1.0"]
    deep = overparameterize(model)
    assert changed(deep) == ["0"]
    assert type(deep[1][0]).__name__ == type(model[1][0]).__name__
    assert deep[1].state_dict().keys() == model[1].state_dict().keys()
    with pytest.raises(ValueError, match="modules has '1', where nothing can be changed"):
        overparameterize(model, modules=["1"])


def test_attention_keeps_its_projections_and_runs():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    told = reasons(model)
    assert told["self_attn.out_proj"] == "MultiheadAttention reads its weight"
    assert told["self_attn"] == "not a linear layer or convolution"
    deep = overparameterize(model)
    assert changed(deep) == ["linear1", "linear2"]
    x = torch.randn(2, 3, 8)
    for training in (False, True):
        torch.manual_seed(1)
        expected = model.train(training)(x)
        torch.manual_seed(1)
        torch.testing.assert_close(deep.train(training)(x), expected, rtol=1e-4, atol=1e-5)


def test_a_module_that_an_attribute_holds_too_is_left_alone():
    model = branches()
    model.listed = [model.stem[0]]
    model.by_name = {"block": model.blocks[0]}
    told = reasons(model)
    assert told["stem.0"] == "the attribute listed of (the model) holds it beside torch's registration"
    assert told["blocks.0"] == "the attribute by_name of (the model) holds it beside torch's registration"


# -- models that cannot be changed ----------------------------------------------------------------------


CHANGES = (
    overparameterize,
    lambda model: factorize(model, rank=1),
    lambda model: truncate(model, tol=0.1),
    collapse,
)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
def test_scripted_models_are_refused():
    scripted = torch.jit.trace(nn.Linear(4, 4), torch.zeros(1, 4))
    for change in CHANGES:
        with pytest.raises(TypeError, match="it is scripted; change the model first"):
            change(scripted)
    mixed = nn.Sequential(nn.Linear(4, 4), scripted)
    with pytest.raises(TypeError, match=r"1 is a TopLevelTracedModule: it is scripted; .*; or name others in modules"):
        overparameterize(mixed)
    assert reasons(mixed, modules=["0"]) == {"1": "not selected"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compiled_models_are_refused():
    compiled = torch.compile(nn.Linear(4, 4))
    for change in CHANGES:
        with pytest.raises(TypeError, match="it is compiled; change the model first and compile it then"):
            change(compiled)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:torch.quantize:UserWarning")
def test_quantized_models_are_refused():
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Linear(4, 4)), {nn.Linear})
    with pytest.raises(TypeError, match="1 is a Linear: it is quantized; change the model first and quantize it then"):
        overparameterize(quantized)
    assert changed(overparameterize(quantized, modules=["0"])) == ["0"]


def test_layers_exchanged_before_are_not_exchanged_again():
    deep = overparameterize(cnn(), types=nn.Linear)
    twice, report = overparameterize(deep, with_report=True)
    assert [type(twice[k]) for k in (0, 3, 7, 9)] == [OverparamConv2d] * 2 + [OverparamLinear] * 2
    assert {name: reason for name, _, reason in report.left_alone} == dict.fromkeys(
        ("7", "9"), "it is over-parameterized or factorized already"
    )
    with pytest.raises(ValueError, match="over-parameterized or factorized already"):
        overparameterize(overparameterize(cnn()))


def test_parametrized_layers_keep_their_parametrization():
    model = nn.Sequential(nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 4)))
    deep = overparameterize(model)
    assert parametrize.is_parametrized(deep[1])
