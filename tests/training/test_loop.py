import math

import pytest
import torch

from htf import DimensionTree
from htf.nn import CPNetwork, HTNetwork
from htf.training import FitSettings, LeastSquaresFit, RelativeAdam, Training, center_outputs, objectives

ORDER = 8
GENERATOR = torch.Generator().manual_seed(0)
INDICES = torch.randint(0, 2, (120, ORDER), generator=GENERATOR)
TARGETS = torch.stack([(INDICES[:, 0] * INDICES[:, 5]).float(), INDICES[:, 3].float()], 1)


def make(kind="ht"):
    if kind == "cp":
        return CPNetwork([2] * ORDER, [2, 3], seed=0)
    return HTNetwork(DimensionTree.balanced(ORDER), 2, 3, runs=2, seed=0)


def fit(network=None, epochs=20, **kwargs):
    network = network or make()
    batches = [
        (network.plan(x), y) for x, y in zip(INDICES.split(40), TARGETS.to(network.dtype).split(40), strict=True)
    ]
    settings = kwargs.pop("settings", FitSettings(epochs=epochs))
    return LeastSquaresFit(network, batches, batches[:1], settings, **kwargs)


@pytest.mark.parametrize("kind", ["cp", "ht"])
def test_learns_a_product_of_two_bits(kind):
    trained = fit(make(kind), epochs=60)
    trained.run()
    assert all(error < 0.01 for error in trained.errors(trained.train))
    assert len(trained.train_errors) == len(trained.test_errors) == 60


def test_runs_train_as_they_would_alone():
    both = fit(CPNetwork([2] * ORDER, [2, 3], seed=[1, 2]))
    both.run()
    alone = CPNetwork([2] * ORDER, 3, seed=[2])
    batches = [(alone.plan(x), y[:, 1:]) for x, y in zip(INDICES.split(40), TARGETS.split(40), strict=True)]
    single = LeastSquaresFit(alone, batches, batches[:1], FitSettings(epochs=20))
    single.run()
    assert single.errors(batches)[0] == pytest.approx(both.errors(both.train)[1], rel=0.05)


def test_targets_of_one_column_are_those_of_all_runs():
    x, y = INDICES, TARGETS[:, :1]
    found = []
    for targets in (y, y.expand(-1, 2)):
        network = make()
        batches = [(network.plan(part), own) for part, own in zip(x.split(40), targets.split(40), strict=True)]
        trained = LeastSquaresFit(network, batches, batches[:1], FitSettings(epochs=3))
        trained.run()
        squares = objectives.least_squares(x.split(40), targets.split(40), test=(x.split(40), targets.split(40)))
        history = Training(make(), squares, optimizer="relative_adam", lr=0.1, seed=0).run(epochs=3)
        found.append((trained.train_errors, trained.test_errors, history.loss.tolist()))
    assert found[0] == found[1]
    assert len(found[0][0][0]) == 2
    with pytest.raises(ValueError, match=r"have shape \(40, 3\); expected \(batch, 2\), or \(batch, 1\) for all"):
        LeastSquaresFit(make(), [(make().plan(x[:40]), torch.zeros(40, 3))], [], FitSettings())


class StopError(Exception):
    pass


def stop_at(epoch):
    def check(running):
        if running.epoch == epoch:
            raise StopError

    return check


@pytest.mark.parametrize("kind", ["cp", "ht"])
def test_resumes_bit_identically(tmp_path, kind):
    straight = fit(make(kind))
    straight.run()
    path = tmp_path / "state.safetensors"
    first = fit(make(kind), checkpoint=path)
    with pytest.raises(StopError):
        first.run(stop_at(7), save_every=0)
    second = fit(make(kind), checkpoint=path)
    assert second.epoch == 7
    second.run()
    for a, b in zip(straight.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert second.train_errors == straight.train_errors
    assert second.test_errors == straight.test_errors


def test_an_interrupt_at_the_end_of_an_epoch_saves(tmp_path):
    path = tmp_path / "state.safetensors"
    running = fit(checkpoint=path)

    def interrupt(current):
        if current.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        running.run(interrupt, save_every=1e9)
    assert fit(checkpoint=path).epoch == 3


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    first = fit(checkpoint=path, about={"job": "a"})
    first.save()
    with pytest.raises(ValueError, match="written with job = 'a'; here it is 'b'"):
        fit(checkpoint=path, about={"job": "b"})
    with pytest.raises(ValueError, match="written with epochs = 20; here it is 30"):
        fit(checkpoint=path, about={"job": "a"}, epochs=30)
    with pytest.raises(ValueError, match="written with seed = 0; here it is 1"):
        fit(checkpoint=path, about={"job": "a"}, seed=1)
    with pytest.raises(ValueError, match=r"weights\.0"):
        fit(HTNetwork(DimensionTree.balanced(ORDER), 2, 4, runs=2, seed=0), checkpoint=path, about={"job": "a"})


def test_a_run_that_blows_up_goes_back_and_leaves_the_others_alone():
    clean = fit()
    clean.run()
    disturbed = fit()

    def blow_up(running):
        if running.epoch in (5, 8):
            with torch.no_grad():
                running.network.weights[0][0] = float("nan")

    with pytest.warns(RuntimeWarning, match="the loss of run 0 was nan in epoch 6; it goes back") as warned:
        disturbed.run(blow_up)
    assert len(warned) == 1
    assert disturbed.returns == sorted([*clean.returns, (5, 0), (8, 0)])
    assert all(math.isfinite(e) for e in disturbed.errors(disturbed.train))
    assert disturbed.errors(disturbed.train)[0] < 0.05
    torch.testing.assert_close(disturbed.network.weights[0][1], clean.network.weights[0][1])


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_the_tolerance_is_a_share_of_the_variance_of_the_targets(scale):
    network = make()
    batches = [(network.plan(x), scale * y) for x, y in zip(INDICES.split(40), TARGETS.split(40), strict=True)]
    center_outputs(network, batches[0][0], batches[0][1])
    found = []
    for tolerance in (0.01, 1e4):

        def spoil(running):
            if running.epoch == 5:
                with torch.no_grad():
                    running.network.weights[0][0] *= 1.5

        trained = LeastSquaresFit(network, batches, batches[:1], FitSettings(epochs=7, tolerance=tolerance))
        trained.run(spoil)
        found.append((5, 0) in trained.returns)
    assert found == [True, False]


def test_the_usual_rate_collapses_at_order_784_and_this_step_does_not():
    indices = torch.randint(0, 2, (240, 784), generator=torch.Generator().manual_seed(1))
    targets = (indices[:, 10] * indices[:, 20]).float().unsqueeze(1)
    tree = DimensionTree.grid(28, 28)

    def error(optimizer_of):
        network = HTNetwork(tree, 2, 8, seed=0)
        plan = network.plan(indices)
        center_outputs(network, plan, targets)
        optimizer = optimizer_of(network)
        for _ in range(25):
            optimizer.zero_grad()
            loss = (network(plan) - targets).square().mean()
            loss.backward()
            optimizer.step()
        return float((network(plan) - targets).detach().square().mean()), float(targets.var(correction=0))

    naive, variance = error(lambda net: torch.optim.Adam(net.parameters(), lr=1e-2))
    ours, _ = error(RelativeAdam)
    assert not naive < variance
    assert ours < 0.9 * variance


@pytest.mark.parametrize("kind", ["cp", "ht"])
def test_center_outputs_matches_means(kind):
    network = make(kind)
    center_outputs(network, INDICES, TARGETS)
    torch.testing.assert_close(network(INDICES).mean(0), TARGETS.mean(0))


def test_one_step_changes_the_log_output_by_the_step_at_most():
    network = HTNetwork(DimensionTree.balanced(64), 2, 5, seed=0)
    x = torch.randint(0, 2, (10, 64), generator=torch.Generator().manual_seed(0))
    before = network(x).detach()
    optimizer = RelativeAdam(network, step=0.1)
    network(x).sum().backward()
    optimizer.step()
    change = (network(x).detach() / before).log().abs()
    assert 0.02 < float(change.max()) < 0.15


def test_slowed_runs_take_half_steps():
    start, networks = make().weights[0].detach().clone(), [make(), make()]
    for network, slow in zip(networks, (False, True), strict=True):
        optimizer = RelativeAdam(network)
        network(INDICES).sum().backward()
        if slow:
            optimizer.slow_down(torch.tensor([False, True]))
        optimizer.step()
    full, half = (n.weights[0].detach() - start for n in networks)
    torch.testing.assert_close(half[0], full[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(half[1], full[1] / 2, rtol=1e-4, atol=1e-7)


def test_schedule_rises_and_falls_to_zero():
    settings = FitSettings(warmup=0.1)
    shares = [settings.share(step, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == pytest.approx(1.0)
    assert shares[-1] < 1e-3
    assert settings.batch_of(60000) == 1000
    assert settings.batch_of(1437) == 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"step": 0.0}, "step is 0"),
        ({"warmup": 1.0}, "warmup is 1"),
        ({"betas": (0.9, 1.0)}, "betas is"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"optimizer": "als"}, "optimizer is 'als'; known are relative_adam, levenberg_marquardt"),
        ({"optimizer": "levenberg_marquardt", "step": 0.5}, "step is 0.5, which is a setting of relative_adam"),
        ({"optimizer": "levenberg_marquardt", "batch_size": 9}, "batch_size is 9, which is a setting of"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        FitSettings(**arguments)


def test_steps_of_another_optimizer_are_not_those_of_this_loop():
    with pytest.raises(ValueError, match="optimizer levenberg_marquardt; expected relative_adam"):
        fit(settings=FitSettings(optimizer="levenberg_marquardt"))


def test_test_errors_are_clipped():
    running = fit()
    with torch.no_grad():
        running.network.weights[-1].fill_(1e6)
    assert running.errors(running.test, clip=1.0) == [1.0, 1.0]


# -- what a checkpoint belongs to, and what is not finite -----------------------------------------------


def other_targets(batches):
    return [(plan, y + 1) for plan, y in batches]


def other_inputs(batches):
    network = make()
    return [(network.plan(1 - x), y) for x, (_, y) in zip(INDICES.split(40), batches, strict=True)]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (other_targets, None, "written with train = "),
        (other_inputs, None, "written with train = "),
        (None, other_targets, "written with test = "),
        (lambda batches: batches[::-1], None, "written with train = "),
    ],
)
def test_a_checkpoint_of_other_data_is_refused_and_kept(train, test, message, tmp_path):
    path = tmp_path / "state.safetensors"
    first = fit(checkpoint=path)
    first.advance()
    first.save()
    before = path.read_bytes()
    train, test = (change or (lambda batches: batches) for change in (train, test))
    network = make()
    with pytest.raises(ValueError, match=message):
        LeastSquaresFit(network, train(first.train), test(first.test), first.settings, checkpoint=path)
    assert path.read_bytes() == before
    assert torch.equal(network.weights[0], make().weights[0])


def test_a_checkpoint_of_another_start_or_network_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    running = fit(checkpoint=path)
    running.advance()
    running.save()
    other = HTNetwork(DimensionTree.balanced(ORDER), 2, 3, runs=2, seed=1)
    with pytest.raises(ValueError, match="began at other parameters: another seed or initialization"):
        fit(other, checkpoint=path)
    assert torch.equal(other.weights[0], HTNetwork(DimensionTree.balanced(ORDER), 2, 3, runs=2, seed=1).weights[0])
    with pytest.raises(ValueError, match=r"written with weights.1 = .*; here it is"):
        fit(HTNetwork(DimensionTree.linear(ORDER), 2, 3, runs=2, seed=0), checkpoint=path)
    with pytest.raises(ValueError, match=r"written with dtype = 'torch.float32'; here it is 'torch.float64'"):
        fit(make().double(), checkpoint=path)
    # The network that was interrupted goes on, as one that is built anew.
    assert fit(running.network, checkpoint=path).epoch == fit(checkpoint=path).epoch == 1


def test_a_loss_that_is_not_finite_at_the_start_is_named():
    network = make()
    with torch.no_grad():
        network.weights[0][1] = float("inf")
    with (
        pytest.warns(RuntimeWarning, match=r"outputs are not finite at the start in runs \[1\]"),
        pytest.raises(ValueError, match=r"the loss of run 1 is (nan|inf) at the start"),
    ):
        fit(network).advance()


def test_no_batches():
    with pytest.raises(ValueError, match="train has no batches"):
        LeastSquaresFit(make(), [], [], FitSettings())
