"""Functions and data of a user's own: checkpoints refuse those of other values, and what trains nothing is told."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from htf.training import Training, objectives
from htf.training._callables import describe_callable


def scaled(model, x, y, out, k=1.0):
    return k * out.square().mean()


class Scaled:
    def __init__(self, k):
        self.k = k

    def __call__(self, model, x, y, out):
        return scaled(model, x, y, out, self.k)


def nested(k):
    return lambda model, x, y, out: k * out.square().mean()


def decaying(k):
    return lambda step, *steps: 1 / (1 + k * step)


def mean_square(k, x=None):
    x = torch.ones(4, 5) if x is None else x
    return lambda model, generator: k * (model(x) - 1).square().mean()


LAMBDA = torch.optim.lr_scheduler.LambdaLR


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("regularizer", lambda k: {"regularizer": nested(k)}),
        ("regularizer", lambda k: {"regularizer": partial(scaled, k=k)}),
        ("regularizer", lambda k: {"regularizer": Scaled(k)}),
        ("regularizer", lambda k: {"regularizer": Scaled(k).__call__}),
        ("schedule", lambda k: {"schedule": decaying(k)}),
        ("last_epoch", lambda k: {"schedule": partial(LAMBDA, lr_lambda=decaying(k))}),
        ("objective", lambda k: {"objective": mean_square(k)}),
        ("objective", lambda k: {"objective": mean_square(1.0, torch.full((4, 5), k))}),
        ("objective", lambda k: {"objective": objectives.function(mean_square(1.0), data={"x": k})}),
    ],
)
def test_functions_of_other_values_are_refused(tmp_path, name, of):
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))

    def train(k, steps):
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        settings = {"objective": objectives.classification((x, x[:, :3].argmax(1)), batch_size=10)} | of(k)
        Training(model, lr=0.1, **settings, out=tmp_path).run(steps=steps)
        return model.weight

    # The same values, in functions made anew, go on.
    first = train(1.0, 8)
    assert torch.equal(train(1.0, 8), first)
    with pytest.raises(ValueError, match=f"written with ({name}|schedule|data_sha256) ="):
        train(2.0, 8)


def test_functions_are_known_by_what_they_do():
    names = [describe_callable(each) for each in (lambda a: a + 1, lambda a: a + 2, lambda a: a + 1)]
    assert names[0] == names[2] != names[1]
    assert describe_callable(scaled) == "scaled(k=1.0)"
    assert describe_callable(partial(scaled, k=3)) == "partial of scaled(k=1.0)(k=3)"
    counts = [0]
    counting = lambda: counts.append(1)  # noqa: E731
    before = describe_callable(counting)
    counting()
    assert describe_callable(counting) == before


def unrelated(parameters, lr):
    return torch.optim.SGD([torch.zeros(3, requires_grad=True)], lr=lr)


X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
PAIR = X, X[:, :3].argmax(1)


@pytest.mark.parametrize(
    ("objective", "settings", "error", "words"),
    [
        (
            lambda: objectives.classification(PAIR),
            {"optimizer": unrelated},
            ValueError,
            r"\(3,\) that is no param",
        ),
        (lambda: objectives.classification(PAIR, (X[:, :3], PAIR[1])), {}, ValueError, r"\(2, 3\).* as validation has"),
        (
            lambda: objectives.classification(PAIR, sample_weight=np.ones(40)),
            {},
            TypeError,
            "weight is a ndarray",
        ),
        (lambda: objectives.regression((X, X[:, :3] * torch.nan)), {}, ValueError, "train has targets that are NaN"),
        (lambda: objectives.regression((X / 0, X[:, :3])), {}, ValueError, "train has inputs that are NaN"),
        (lambda: lambda model, generator: model.weight.sum() * 1j, {}, TypeError, "losses of dtype torch.complex64"),
    ],
)
def test_what_would_train_nothing_or_fail_elsewhere_is_told(objective, settings, error, words):
    with pytest.raises(error, match=words):
        Training(nn.Linear(5, 3), objective(), **settings).run(epochs=1)


def test_inputs_that_require_gradients_are_read_without_them():
    for of in (objectives.classification, objectives.regression):
        targets = PAIR[1] if of is objectives.classification else X[:, :3]
        weights = []
        for x in (X, X.clone().requires_grad_()):
            torch.manual_seed(0)
            model = nn.Linear(5, 3)
            Training(model, of((x, targets), batch_size=10), lr=0.1).run(epochs=1)
            weights.append(model.weight)
            assert x.grad is None
        assert torch.equal(*weights)
