"""What all regularizers of image models share: weight, interval, state, statistics, wrappers and bad input."""

import json
import math
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from regularizers.cases import A, B, assert_close, batch, fixed, gradients, net
from torch import nn
from torch.utils.checkpoint import checkpoint

from htf.regularizers import GradientFieldChange, InputGradientChange, Interaction, Patch, random_patches

KINDS = [InputGradientChange, Interaction]
both = pytest.mark.parametrize("kind", KINDS)


def field(patches, *args, **settings):
    """The third kind, which draws patches by itself."""
    return GradientFieldChange(2, *args, **settings)


every = pytest.mark.parametrize("kind", [*KINDS, field])


@pytest.fixture
def given():
    return net(), *batch(12)


def values(reg, model, x, y, calls):
    found = []
    for _ in range(calls):
        value = reg(model, x, y)
        found.append(float(value.detach()))
    return found


@every
def test_a_resumed_regularizer_goes_on_as_if_nothing_had_happened(kind, given):
    make = lambda seed=3: kind(random_patches(2), samples=4, interval=2, seed=seed)  # noqa: E731
    straight = values(make(), *given, 8)
    assert len(set(straight)) == 5
    first = make()
    before = values(first, *given, 3)
    second = make()
    second.load_state(json.loads(json.dumps(first.state())))
    assert before + values(second, *given, 5) == straight
    assert values(make(4), *given, 1) != straight[:1]


@every
def test_draws_leave_the_global_generator_alone(kind, given):
    before = torch.random.get_rng_state()
    values(kind(random_patches(2), samples=4), *given, 2)
    assert torch.equal(torch.random.get_rng_state(), before)


@every
def test_interval_keeps_the_mean(kind, given):
    model, x, y = given
    reg = kind(fixed(), 0.5, samples=12, interval=3, seed=5)
    found = values(reg, model, x, y, 7)
    assert [value > 0 for value in found] == [True, False, False, True, False, False, True]
    assert found[0] == pytest.approx(3 * 0.5 * values(kind(fixed(), samples=12, seed=5), model, x, y, 1)[0])
    skipped = reg(model, x, y)
    assert skipped.shape == ()
    assert skipped.dtype == torch.float64
    assert found[-1] == pytest.approx(3 * 0.5 * reg.last)


@every
def test_weight_zero_computes_nothing(kind, given):
    model, x, y = given
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model was called"))
    reg = kind(fixed(), 0)
    assert values(reg, model, x, y, 1) == [0]
    assert reg.last is None
    assert reg.calls == 1


@both
def test_reads_as_it_was_made(kind):
    text = repr(kind(random_patches(2, 5), 0.5, seed=7, interval=2, samples=4))
    patches = "RandomPatches(size=(2, 2), distance=5, adjacent=False)"
    assert text.startswith(f"{kind.__name__}(weight=0.5, seed=7, interval=2, patches={patches}, samples=4, ")
    assert " at 0x" not in repr(kind(fixed()))
    # Nor of an object without a text of its own, and the rest is still told.
    assert repr(kind(partial(fixed(), 8), 0.5)).startswith(
        f"{kind.__name__}(weight=0.5, seed=0, interval=1, patches=par"
    )
    assert " at 0x" not in repr(kind(partial(fixed(), 8)))


@both
def test_weights_from_arrays(kind):
    for weight in np.array([3, 3.0, 3], dtype=object), np.arange(4), np.float32([0, 3, 3]):
        found = kind(fixed(), weight[-1]).weight
        assert found == 3
        assert type(found) is float


NORMS = {
    "batch": lambda: nn.BatchNorm2d(4),
    "batch, all averaged": lambda: nn.BatchNorm2d(4, momentum=None),
    "instance": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
}


@every
@pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)
def test_running_statistics_and_mode_are_kept(kind, make):
    norm = make()
    model, (x, y) = net(norm=norm), batch()
    model(x)
    momentum = norm.momentum
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert before
    value = kind(fixed())(model, x, y)
    value.backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert norm.training
    assert norm.track_running_stats
    assert norm.momentum == momentum
    model(x)
    assert not all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    model.eval()
    assert kind(fixed())(model, x, y).isfinite()
    assert not norm.training
    assert norm.track_running_stats


@every
def test_with_activation_checkpointing(kind):
    """What is computed again in the backward pass finds batch normalization as it was."""

    class Saving(nn.Sequential):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    x, y = batch()
    found = []
    for wrapped in (nn.Sequential, Saving):
        model = wrapped(net(norm=nn.BatchNorm2d(4)))
        found.append(gradients(model, kind(fixed())(model, x, y)))
    assert_close(*found)


@every
def test_normalization_without_running_statistics(kind):
    norm = nn.BatchNorm2d(4)
    norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    model, (x, y) = net(norm=norm), batch()
    kind(fixed())(model, x, y).backward()
    assert norm.running_mean is None


@every
def test_statistics_are_kept_again_after_an_error(kind):
    norm = nn.BatchNorm2d(4)
    model, (x, y) = net(norm=norm), batch()
    before = norm.running_mean
    model.append(nn.Flatten(5))
    with pytest.raises(IndexError):
        kind(fixed())(model, x, y)
    assert norm.running_mean is before
    assert torch.equal(before, torch.zeros(4))


@every
@pytest.mark.parametrize("layout", ["channels_last", "expanded", "strided"])
def test_any_layout_of_images(kind, layout, given):
    model, x, y = given
    if layout == "channels_last":
        other = x.to(memory_format=torch.channels_last)
    elif layout == "expanded":
        x = x[:, :1].expand(-1, 2, -1, -1)
        other, x = x, x.clone()
    else:
        other = x.mT.contiguous().mT
    before = other.clone()
    assert values(kind(fixed()), model, other, y, 1) == pytest.approx(values(kind(fixed()), model, x, y, 1))
    assert torch.equal(other, before)


@every
def test_images_and_labels_are_left_as_they_are(kind, given):
    model, x, y = given
    copies = x.clone(), y.clone()
    kind(fixed())(model, x, y).backward()
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
    assert not x.requires_grad
    assert x.grad is None


# Ends without Python's cleaning up: as its last reference goes, gloo's process group can wait for a thread of its own
# that waits for the interpreter's lock.
WRAPPED = """
import os, sys, traceback
from regularizers.test_calls import steps_under_distributed_data_parallel
try:
    steps_under_distributed_data_parallel(sys.argv[1])
except BaseException:
    traceback.print_exc()
    os._exit(1)
os._exit(0)
"""


def steps_under_distributed_data_parallel(store):
    model, x, y = net(), *batch(12)
    target = nn.functional.one_hot(y, 2)[:, :1].double()
    store = torch.distributed.FileStore(store, 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    wrapped = nn.parallel.DistributedDataParallel(model)
    for kind in (*KINDS, field):

        def step(called, kind=kind):
            model.zero_grad()
            out = called(x)
            reg = kind(fixed())
            (nn.functional.binary_cross_entropy_with_logits(out, target) + reg(called, x, y, out)).backward()
            return [p.grad.clone() for p in model.parameters()]

        expected = step(model)
        for _ in range(2):
            assert_close(step(wrapped), expected)


def test_under_distributed_data_parallel(tmp_path):
    """Through the wrapper's hooks: gradients are those without it."""
    command = [sys.executable, "-c", WRAPPED, str(tmp_path / "store")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]


@every
def test_negative_weight_lowers(kind, given):
    model, x, y = given
    found = [gradients(model, kind(fixed(), weight)(model, x, y)) for weight in (1.0, -2.0)]
    assert_close([-2 * g for g in found[0]], found[1])


@both
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"patches": 2}, TypeError, r"patches is a int; expected a sampler, such as random_patches\(2\)"),
        ({"weight": math.inf}, ValueError, "weight is inf; expected a finite number"),
        ({"weight": "1"}, TypeError, "weight is '1'; expected a number"),
        ({"seed": -1}, ValueError, "seed is -1; expected 0 or more"),
        ({"seed": 0.5}, TypeError, "seed is 0.5; expected an integer"),
        ({"samples": 0}, ValueError, "samples is 0; expected at least 1"),
        ({"interval": 0}, ValueError, "interval is 0; expected at least 1"),
        ({"eps": 0}, ValueError, "eps is 0; expected above 0"),
    ],
)
def test_bad_arguments(kind, arguments, error, message):
    with pytest.raises(error, match=message):
        kind(**{"patches": fixed(), **arguments})


def test_bad_arguments_of_one_kind():
    with pytest.raises(ValueError, match="samples is 1; expected at least 2"):
        InputGradientChange(fixed(), samples=1)
    with pytest.raises(ValueError, match="grid is 1; expected at least 2"):
        Interaction(fixed(), grid=1)


def frozen(model, x, y):
    for p in model.parameters():
        p.requires_grad_(False)
    return model, x, y


@every
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m, x, y: (m, x[:1], y[:1]), ValueError, "x has 1 sample; expected at least 2.*drop_last"),
        (lambda m, x, y: (m, x[0], y), ValueError, r"x has shape \(2, 8, 8\); expected \(n, channels"),
        (lambda m, x, y: (m, x.long(), y), TypeError, "x has dtype torch.int64"),
        (lambda m, x, y: (m, x.numpy(), y), TypeError, "x is a ndarray; expected a tensor"),
        (lambda m, x, y: ("net", x, y), TypeError, "model is a str; expected an nn.Module"),
        (frozen, RuntimeError, "no parameter that requires a gradient"),
        (lambda m, x, y: (net(3), x, None), ValueError, "y is None; expected the classes.*3 outputs"),
        (lambda m, x, y: (net(3), x, y[:5]), ValueError, r"y has shape \(5,\); expected \("),
        (
            lambda m, x, y: (net(3), x, y - 100),
            ValueError,
            "y has classes -100 to -99; expected 0 to 2, one per output",
        ),
        (lambda m, x, y: (net(3), x, y.double()), TypeError, "y is a torch.float64; expected .* integer"),
        (lambda m, x, y: (nn.Flatten(2), x, y), RuntimeError, "no parameter"),
        (lambda m, x, y: (m[:1], x, y), ValueError, r"outputs have shape \(\d+, 4, 8, 8\); expected \("),
        (lambda m, x, y: (lambda x: x[:, 0, 0, 0].long(), x, y), TypeError, "outputs have dtype torch.int64"),
        (lambda m, x, y: (lambda x: (m(x),), x, y), TypeError, "the model returned a tuple"),
        (lambda m, x, y: (m, x, y.tolist()), TypeError, "y is a list; expected a tensor of classes"),
        (lambda m, x, y: (net(3), x, y.numpy()), TypeError, "y is a ndarray; expected a tensor of classes"),
        (lambda m, x, y: (torch.no_grad()(m.forward), x, y), RuntimeError, "the model's outputs carry no gradient"),
        (lambda m, x, y: (lambda x: m(x).detach(), x, y), RuntimeError, "the model's outputs carry no gradient"),
    ],
)
def test_bad_calls(kind, change, error, message, given):
    model, x, y = change(*given)
    with pytest.raises(error, match=message):
        kind(fixed())(model, x, y)


@every
def test_outputs_that_do_not_fit(kind, given):
    model, x, y = given
    with pytest.raises(ValueError, match=r"outputs have shape \(5, 1\); expected \(12,\)"):
        kind(fixed())(model, x, y, model(x)[:5])


@every
@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_without_gradients(kind, off, given):
    with off(), pytest.raises(RuntimeError, match="gradients are switched off"):
        kind(fixed())(*given)


@both
@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((A, Patch(2, 2, 2, 2)), r"Patch\(top=1.*and Patch\(top=2.*overlap in an image of 8 x 8"),
        ((A, Patch(7, 5, 2, 2)), r"Patch\(top=7.*reaches outside of an image of 8 x 8"),
        ((Patch(0, -1, 2, 2), B), r"left=-1.*is no patch"),
    ],
)
def test_bad_patches(kind, pair, message, given):
    with pytest.raises(ValueError, match=message):
        kind(fixed(*pair))(*given)


@both
@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (None, r"patches gave None; expected a sampler, such as random_patches\(2\), that gives a pair"),
        ((A,), r"patches gave \(Patch.*expected a sampler"),
        ((3, B), "patch is 3; expected a Patch"),
        ((A, (0, 0, 2, "2")), "patch is .*'2'.*; expected integers"),
    ],
)
def test_samplers_that_give_no_patches(kind, pair, message, given):
    with pytest.raises(TypeError, match=message):
        kind(lambda *_: pair)(*given)


@both
def test_a_sampler_that_was_not_made(kind, given):
    with pytest.raises(
        TypeError, match=r"patches gave RandomPatches.*; expected a sampler, such as random_patches\(2\)"
    ):
        kind(lambda height, width, generator: random_patches(2))(*given)


@every
@pytest.mark.parametrize("state", [{}, {"calls": -1}, {"calls": 1.5}, {"calls": True}, [3]])
def test_bad_state(kind, state):
    with pytest.raises(ValueError, match="expected a number of calls"):
        kind(fixed()).load_state(state)
