"""An estimator answers from one fit: whatever is refused, set, or given in other units afterwards is told."""

import copy
import re
from decimal import Decimal

import numpy as np
import pytest
import torch
from models.cases import answers

import htf
from htf._files import write_tensors
from htf.models import GenerativeClassifier, TensorClassifier, TensorDensity, TensorRegressor

SMALL = {"width": 2, "epochs": 1, "device": "cpu"}
RANDOM = np.random.default_rng(0)
TABLE, WHOLE = RANDOM.normal(size=(40, 4)), RANDOM.integers(0, 3, (40, 4))
Y = np.arange(40) % 2
KINDS = {
    "classifier": (lambda **settings: TensorClassifier(**(SMALL | settings)), TABLE),
    "regressor": (lambda **settings: TensorRegressor(**(SMALL | settings)), TABLE),
    "density": (lambda **settings: TensorDensity(**({"levels": 3} | SMALL | settings)), WHOLE),
    "squared": (lambda **settings: TensorDensity(**({"levels": 3, "squared": True} | SMALL | settings)), WHOLE),
    "gaussian": (lambda **settings: TensorDensity(**({"leaf": "gaussian", "components": 2} | SMALL | settings)), TABLE),
    "generative": (lambda **settings: GenerativeClassifier(**({"levels": 3} | SMALL | settings)), WHOLE),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_fit_leaves_the_estimator_as_it_was(kind):
    make, x = KINDS[kind]
    model = make().fit(x, Y)
    before, others = answers(model, x), Y + 5
    calls = [
        lambda: model.fit(2.5 * x + 1, others, validation=2.0),
        lambda: model.fit(2.5 * x + 1, others, sample_weight=-np.ones(40)),
        lambda: model.fit(x[:, :3], others, sample_weight=np.ones(3)),
    ]
    if hasattr(model, "partial_fit"):
        calls.append(lambda: model.partial_fit(x * np.nan, Y))
    if kind == "generative":
        calls.append(lambda: model.partial_fit(x + 1, Y * 0))  # whose classes would have changed the priors
    for call in calls:
        with pytest.raises(ValueError, match=r"validation|sample_weight|NaN|x holds"):
            call()
        np.testing.assert_array_equal(answers(model, x), before)
    new = make()
    with pytest.raises(ValueError, match="sample_weight"):
        new.fit(x, Y, sample_weight=-np.ones(40))
    assert not [name for name in vars(new) if name.endswith("_")]


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_another_network_change_no_answers_and_no_files(kind, tmp_path):
    make, x = KINDS[kind]
    model = make().fit(x, Y)
    before = answers(model, x)
    other = {"width": 5, "levels": 7, "components": 5, "dropout": 0.5, "format": "tt", "patch": 3}
    other |= {"squared": kind != "squared", "dtype": torch.float64, "tree": htf.DimensionTree.linear(4)}
    settings = {name: value for name, value in other.items() if name in model.get_params()}
    for name, value in settings.items():
        changed = copy.deepcopy(model).set_params(**{name: value})
        if hasattr(model, "partial_fit") and (kind, name) != ("gaussian", "squared"):  # which is refused sooner
            with pytest.raises(ValueError, match=f"{name} is .* was fitted with {name}=.*fit begins anew"):
                changed.partial_fit(x, Y)
    model.set_params(**settings)
    if hasattr(model, "log_prob"):
        missing = np.arange(160).reshape(40, 4) % 5 == 0
        expected = make().fit(x, Y).log_prob(x, missing)
        np.testing.assert_array_equal(model.log_prob(x, missing), expected)
    model.save(tmp_path / "model")
    again = htf.models.load(tmp_path / "model")
    np.testing.assert_array_equal(answers(model, x), before)
    np.testing.assert_array_equal(answers(again, x), before)


def test_settings_of_steps_are_those_of_the_next_partial_fit():
    for kind in ("classifier", "squared"):
        make, x = KINDS[kind]
        model = make().partial_fit(x, Y, **({"classes": [0, 1]} if kind == "classifier" else {}))
        before = answers(model, x)
        slow, fast = (answers(copy.deepcopy(model).set_params(lr=lr).partial_fit(x, Y), x) for lr in (1e-9, 1e-2))
        assert np.abs(slow - before).max() < 1e-4 < np.abs(fast - before).max()


@pytest.mark.parametrize("kind", ["classifier", "generative"])
def test_classes_of_partial_fits(kind):
    make, x = KINDS[kind]
    with pytest.raises(ValueError, match=r"classes holds 1 class\(es\), \[0\]; expected at least 2"):
        make().partial_fit(x, Y * 0, classes=[0])
    with pytest.raises(ValueError, match=r"classes has shape \(2, 2\)"):
        make().partial_fit(x, Y, classes=[[0, 1], [2, 3]])
    model = make().partial_fit(x, Y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"classes are \[0, 1, 2\]; at the first call they were \[0, 1\]"):
        model.partial_fit(x, Y, classes=[0, 1, 2])
    model.partial_fit(x, Y, classes=(1, 0))
    if kind == "classifier":
        heavy, even = (make(class_weight=w).partial_fit(x, Y, classes=[0, 1]) for w in ({0: 99.0, 1: 1.0}, None))
        assert answers(heavy, x)[:, 0].mean() > answers(even, x)[:, 0].mean()
        with pytest.raises(ValueError, match="class_weight is 'balanced', which needs all samples at once"):
            make(class_weight="balanced").partial_fit(x, Y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"holds labels such as .*'0'.*classes that were fitted|Mix of label input"):
        model.score(x, Y.astype(str))


@pytest.mark.parametrize("kind", KINDS)
def test_containers_are_read_right_or_refused(kind):
    make, x = KINDS[kind]
    expected = answers(make().fit(x, Y), x)
    tensor = torch.tensor(x)
    alike = [x.astype(x.dtype.newbyteorder()), np.ma.masked_array(x), torch._neg_view(-tensor), x.astype(object)]
    alike.append(x.astype(np.longdouble if x.dtype.kind == "f" else np.uint64))
    if x.dtype.kind == "i":
        alike += [tensor.to(torch.uint16), tensor.bfloat16()]
    for given in alike:
        np.testing.assert_allclose(answers(make().fit(given, Y), given), expected, atol=1e-6)
    refused = [
        (np.ma.masked_array(x, mask=x > 0), ValueError, "masked array of which .* entries are masked"),
        (tensor.to_sparse(), TypeError, "sparse"),
        (tensor.to("meta"), TypeError, "meta"),
    ]
    for given, error, words in refused:
        with pytest.raises(error, match=f"(?i)x (is|has|holds).*{words}"):
            make().fit(given, Y)
    for name, given in (("y", np.ma.masked_array(Y, mask=Y > 0)), ("sample_weight", np.ma.masked_array(Y, mask=Y > 0))):
        if name == "y" and kind in ("density", "squared", "gaussian"):
            continue
        with pytest.raises(ValueError, match=f"{name} is a masked array of which 20 entries are masked"):
            make().fit(x, **({"y": Y} | {name: given}))
    if "classif" in type(make()).__name__.lower() or kind == "regressor":
        np.testing.assert_allclose(answers(make().fit(x, torch.tensor(Y).bfloat16()), x), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["classifier", "generative"])
def test_labels_of_many_types_are_told_and_written(kind, tmp_path):
    make, x = KINDS[kind]
    with pytest.raises(TypeError, match=r"y holds labels of type int and str|y holds labels of type NoneType and str"):
        make().fit(x, np.array(["a", 1] * 20, dtype=object))
    good = [np.where(Y, "a", "b").astype(object), Y.astype(bool), torch.tensor(Y, dtype=torch.float32).requires_grad_()]
    if kind == "generative":
        good.append(np.array([np.int64(y) for y in Y], dtype=object))
    else:
        good.append(np.where(Y, np.datetime64("2020-01-01"), np.datetime64("2021-02-03")))
    for labels in good:
        model = make().fit(x, labels)
        model.save(tmp_path / "model")
        np.testing.assert_array_equal(htf.models.load(tmp_path / "model").predict(x), model.predict(x))
    if kind == "generative":
        with pytest.raises(TypeError, match=r"classes_ holds Decimal\('0'\), a Decimal; a file can hold"):
            make().fit(x, np.array([Decimal(int(y)) for y in Y], dtype=object)).save(tmp_path / "model")
        with pytest.raises(ValueError, match="Unknown label type"):
            make().fit(x, Y.astype(str).astype(bytes))


def test_a_regressor_takes_real_targets():
    images = RANDOM.random((40, 4, 4))
    for given in (TABLE, images):
        with pytest.raises(ValueError, match=r"(?i)complex data not supported"):
            TensorRegressor(**SMALL).fit(given, Y * 1j)
    with pytest.raises(ValueError, match="y has dtype <U21; expected numbers"):
        TensorRegressor(**SMALL).fit(images, Y.astype(str))


@pytest.mark.parametrize("size", [1e-200, 2.0**900])
def test_numbers_of_any_size_are_standardized(size):
    y = TABLE[:, 0]
    expected = TensorRegressor(**SMALL | {"epochs": 20}).fit(TABLE, y).predict(TABLE)
    found = TensorRegressor(**SMALL | {"epochs": 20}).fit(TABLE * size, y * size).predict(TABLE * size)
    np.testing.assert_allclose(found / size, expected, atol=1e-2)
    make, _ = KINDS["gaussian"]
    shift = make().fit(TABLE * size).score(TABLE * size) - make().fit(TABLE).score(TABLE)
    assert shift == pytest.approx(-4 * np.log(size), rel=1e-3)
    levels, x = TensorDensity(levels=3, **SMALL), TABLE * size
    assert levels.fit(x).score(x) == pytest.approx(TensorDensity(levels=3, **SMALL).fit(TABLE).score(TABLE), abs=1e-4)


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_a_table_is_standardized_before_it_is_rounded(kind):
    make, x = KINDS[kind]
    far = make(epochs=20).fit(x + 2.0**30, Y)  # float32 knows integers of this size to 128
    np.testing.assert_allclose(answers(far, x + 2.0**30), answers(make(epochs=20).fit(x, Y), x), atol=1e-2)


def test_images_in_other_units_are_told():
    images = RANDOM.integers(0, 256, (40, 4, 4)).astype(np.uint8)
    for make in (KINDS["classifier"][0], KINDS["regressor"][0]):
        for fitted, asked in ((images / 255, images.astype(float)), (images.astype(float), images / 255)):
            model = make().fit(fitted, Y)
            answers(model, fitted[:1])
            with pytest.warns(UserWarning, match="X has pixels of standard deviation .*same units"):
                answers(model, asked)
        with pytest.raises(ValueError, match=r"X has pixels of sizes up to .*e-202; expected sizes that float32"):
            make().fit(images * 1e-204, Y)
    settings = {"levels": 4} | SMALL
    model = TensorDensity(**settings).fit(images / 255)
    with pytest.warns(UserWarning, match="x holds values from 0 to 255; this model was fitted on values from 0 to 1"):
        model.log_prob(images)
    black_and_white = ((images > 127) * 255).astype(np.uint8)
    model = TensorDensity(**settings).fit(black_and_white)
    with pytest.warns(UserWarning, match="x holds values from 0 to 1; this model was fitted on values from 0 to 255"):
        model.log_prob(black_and_white / 255.0)
    model.log_prob(black_and_white * 1.0)


@pytest.mark.parametrize(
    "edit",
    [
        lambda about, tensors: about.pop("settings"),
        lambda about, tensors: about.update(tree="x"),
        lambda about, tensors: about["settings"].update(width=5),
        lambda about, tensors: about["settings"].update(depth=5),
        lambda about, tensors: about.update(model="TensorRegressor"),
        lambda about, tensors: about.update(model=["TensorClassifier"]),
        lambda about, tensors: about["fitted"].update(dtype="<zz"),
        lambda about, tensors: about["encoder"].update(kind="columns of another kind"),
        lambda about, tensors: about["encoder"].update(mean=[0.0]),
        lambda about, tensors: tensors.clear(),
    ],
)
def test_files_that_describe_no_model_are_refused_by_name(edit, tmp_path):
    model = KINDS["classifier"][0]().fit(TABLE, Y)
    tensors, about = model.state()
    edit(about, tensors)
    write_tensors(tmp_path / "model", tensors or {"kept": torch.zeros(1)}, about, "a model")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'model'} ") + "(does not describe|holds) a"):
        htf.models.load(tmp_path / "model")


def test_other_settings_of_another_type_are_told():
    for make, x in (KINDS["classifier"], KINDS["density"]):
        with pytest.raises(TypeError, match="progress is 'no'; expected True or False"):
            make(progress="no").fit(x, Y)
    with pytest.raises(TypeError, match="label_smoothing is None; expected a number"):
        KINDS["classifier"][0](label_smoothing=None).fit(TABLE, Y)
    make, x = KINDS["generative"]
    for priors, error, words in (
        ({0: 0.5}, TypeError, "priors holds objects"),
        ("even", ValueError, "priors has dtype"),
    ):
        with pytest.raises(error, match=words):
            make(priors=priors).fit(x, Y)
    model = make().fit(x, Y)
    for weights, words in ((-np.ones(40), "entries that are negative"), (np.ones(3), r"shape \(3,\)")):
        with pytest.raises(ValueError, match=f"sample_weight has {words}"):
            model.score(x, Y, sample_weight=weights)
    weights = np.arange(40.0)
    expected = np.average(model.predict(x) == Y, weights=weights)
    assert model.score(x, Y, sample_weight=weights) == pytest.approx(expected)


def test_a_training_that_learned_nothing_is_told():
    # On a tree of hundreds of nodes, large steps end where all samples get one answer.
    X = np.random.RandomState(0).rand(64, 400)
    y = np.arange(64) % 2
    with pytest.warns(UserWarning, match=r"answers to 64 of the samples are the same: nothing .*nodes .399 here"):
        TensorClassifier(width=2, epochs=13).fit(X, y)
    with pytest.warns(UserWarning, match="nothing was learned at lr 0.01 in 13 epochs"):
        TensorRegressor(width=2, epochs=13).fit(X, X[:, 0])
    # Few steps leave nearly what there was; samples, or targets, that are all alike have one answer.
    TensorClassifier(width=2, epochs=1).fit(X, y)
    TensorClassifier(width=2, epochs=100).fit(np.ones((8, 3)), y[:8])
    TensorRegressor(width=2, epochs=13).fit(X[:, :3], np.ones(64))
