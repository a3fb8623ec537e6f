"""Objectives of labelled samples: weights, smoothed labels, squared errors, against torch's own losses."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from htf.training import Training, objectives

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
WEIGHTS = torch.arange(40.0) % 4


def begun(objective, outputs):
    torch.manual_seed(0)
    return Training(nn.Linear(6, outputs), objective, lr=0.05)


def test_weights_and_smoothed_labels_are_those_of_torch():
    objective = objectives.classification((X, Y), batch_size=40, sample_weight=WEIGHTS, label_smoothing=0.2)
    model = begun(objective, 3).model
    losses = cross_entropy(model(X), Y, reduction="none", label_smoothing=0.2)
    expected = (losses * WEIGHTS).sum() / WEIGHTS.sum()
    torch.testing.assert_close(objective.find(model, 0, 0).losses, expected)


def test_a_smoothed_label_of_one_logit():
    y = (Y > 0).long()
    objective = objectives.classification((X, y), batch_size=40, label_smoothing=0.2)
    model = begun(objective, 1).model
    two = torch.cat([torch.zeros(40, 1), model(X)], 1)
    expected = cross_entropy(two, y, label_smoothing=0.2)
    torch.testing.assert_close(objective.find(model, 0, 0).losses, expected)


def test_regression_finds_a_linear_map_and_measures_it():
    target = X @ torch.tensor([[1.0], [2], [0], [0], [-1], [0]]) + 3
    objective = objectives.regression((X[:30], target[:30]), (X[30:], target[30:]), batch_size=10)
    history = begun(objective, 1).run(epochs=200)
    assert float(history["validation"]["r2"][-1]) > 0.99
    weighted = objectives.regression((X, target), batch_size=40, sample_weight=WEIGHTS)
    model = begun(weighted, 1).model
    expected = ((model(X) - target).square().squeeze(1) * WEIGHTS).sum() / WEIGHTS.sum()
    torch.testing.assert_close(weighted.find(model, 0, 0).losses, expected)


def test_floats_of_another_precision_are_brought_to_the_models():
    double = objectives.regression((X.double(), X[:, :1].double()), (X.double(), X[:, :1].double()), batch_size=40)
    single = objectives.regression((X, X[:, :1]), (X, X[:, :1]), batch_size=40)
    found, expected = (begun(objective, 1).run(epochs=2) for objective in (double, single))
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: objectives.regression((X.long(), X[:, :1])),
            TypeError,
            r"inputs of shape \(1, 6\) and dtype .*int64",
        ),
        (lambda: objectives.classification((X.long(), Y)), TypeError, r"and dtype torch.int64, as train has them"),
        (lambda: objectives.regression((X[:, :5], X[:, :1])), ValueError, r"take inputs of shape \(1, 5\)"),
        (lambda: objectives.classification((X[:, :5], Y)), ValueError, r"take inputs of shape \(2, 5\)"),
        (lambda: objectives.regression((X, X[:, :1]), (X.long(), X[:, :1])), TypeError, "as validation has them"),
        (lambda: objectives.regression((X, X[:, :1]), (X[:, 1:], X[:, :1])), ValueError, "as validation has them"),
        (lambda: objectives.regression((X, X[:, :1]), (X, X[:, :2])), ValueError, "for one sample of validation"),
    ],
)
def test_inputs_that_the_model_does_not_take(make, error, message):
    with pytest.raises(error, match=message):
        begun(make(), 3 if isinstance(make(), objectives.Classes) else 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: objectives.classification((X, Y), sample_weight=WEIGHTS[:3]), r"sample_weight has shape \(3,\)"),
        (lambda: objectives.classification((X, Y), sample_weight=-WEIGHTS), "negative"),
        (lambda: objectives.classification((X, Y), sample_weight=WEIGHTS * 0), "sample_weight is zero for all"),
        (lambda: objectives.classification((X, Y), label_smoothing=1.0), "label_smoothing is 1.0"),
        (lambda: objectives.regression((X, Y.float())), r"targets of shape \(40,\); expected"),
        (lambda: begun(objectives.regression((X, X[:, :2])), 1), r"outputs of shape \(1, 1\) for one sample"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    with pytest.raises(TypeError, match="expected a pair of tensors"):
        objectives.regression((X, [1.0] * 40))
    with pytest.raises(TypeError, match=r"targets of dtype torch\.int64; expected floats"):
        objectives.regression((X, Y[:, None]))
