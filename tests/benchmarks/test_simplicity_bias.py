"""The effective-rank experiments, on a few small networks."""

import csv

import pytest
import torch

from benchmarks.simplicity import __main__ as bias
from benchmarks.simplicity import cifar, parts, training
from benchmarks.simplicity.plots import plot_effective_ranks, plot_kernels, plot_rank_penalties, plot_recovery
from htf._files import read_json, read_tensors, write_tensors

FEW = ["--nets", "3", "--steps", "2", "--no-progress"]


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_distribution_leaves_a_table_a_figure_and_verdicts(tmp_path, capsys, monkeypatch):
    few = [case for case in parts.cases() if (case.activation, case.rank) in {("relu", 0), ("relu", 4)}]
    monkeypatch.setattr(parts, "cases", lambda: few)
    bias.main(["--only", "distribution", "--depths", "1", "32", *FEW, "--out", str(tmp_path)])
    rows = read(tmp_path / "simplicity_distribution.csv")
    # Depth 32 is for networks that are not trained.
    assert [(row["stage"], row["depth"]) for row in rows].count(("initialization", "32")) == 3
    assert {row["depth"] for row in rows if row["stage"] == "trained"} == {"1"}
    assert all(row["missed"] == "3" for row in rows if row["stage"] == "trained")
    content = read_json(tmp_path / "simplicity_distribution.json")
    start = [each for each in content["verdicts"] if each["stage"] == "initialization"]
    assert all(each["falls"] and each["mean"]["1"] > 10 * each["mean"]["32"] for each in start)
    assert content["versions"]["torch"] == torch.__version__
    assert (content["nets"], content["network_seeds"], content["data_seed"]) == (3, "0 to 2", parts.DATA_SEED)
    before = (tmp_path / "simplicity_distribution.csv").read_bytes()
    (tmp_path / "simplicity_distribution.png").unlink()
    assert "3 missed the loss" in capsys.readouterr().out
    bias.main(["--only", "distribution", "--figures", "--out", str(tmp_path)])
    assert (tmp_path / "simplicity_distribution.png").stat().st_size > 1000
    assert (tmp_path / "simplicity_distribution.csv").read_bytes() == before


def test_a_stopped_part_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "cases", lambda: [parts.Case("relu"), parts.Case("tanh")])
    arguments = ["--only", "distribution", "--depths", "1", "2", *FEW, "--out"]
    bias.main([*arguments, str(tmp_path / "whole")])
    real, calls = parts.distribution_row, []

    def until(number):
        def row(*which):
            calls.append(which)
            if len(calls) == number:
                raise KeyboardInterrupt
            return real(*which)

        return row

    monkeypatch.setattr(parts, "distribution_row", until(3))
    with pytest.raises(KeyboardInterrupt):
        bias.main([*arguments, str(tmp_path / "stopped")])
    monkeypatch.setattr(parts, "distribution_row", until(99))
    bias.main([*arguments, str(tmp_path / "stopped")])
    # The third row, at which it was stopped, and the last: what was finished is not computed again.
    assert [(case.activation, depth) for case, depth, *_ in calls[3:]] == [("tanh", 1), ("tanh", 2)]
    tables = [tmp_path / which / "simplicity_distribution.csv" for which in ("whole", "stopped")]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert not list((tmp_path / "stopped").glob("*.partial.json"))


def test_kernels_and_least_squares(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "ACTIVATIONS", ("tanh",))
    monkeypatch.setattr(parts, "SAMPLE_COUNTS", (64,))
    monkeypatch.setattr(parts, "TASKS", ("1", "flat"))
    monkeypatch.setattr(parts, "STEPS", 2)
    bias.main(["--only", "kernels", "least_squares", "--depths", "1", "2", *FEW, "--out", str(tmp_path)])
    pictures, about = read_tensors(tmp_path / "simplicity_kernels.safetensors")
    assert set(pictures) == {f"{s}/tanh/{d}" for s in ("initialization", "trained") for d in (1, 2)}
    kernel = pictures["trained/tanh/2"]
    assert kernel.shape == (bias.KERNEL_SIZE, bias.KERNEL_SIZE)
    assert bool((kernel.diagonal() == 127).all())
    assert about["effective_rank"]["initialization/tanh/2"] < about["effective_rank"]["initialization/tanh/1"]
    rows = read(tmp_path / "simplicity_least_squares.csv")
    assert [(row["task"], row["depth"]) for row in rows] == [(t, d) for t in ("1", "flat") for d in ("0", "1", "2")]
    assert float(rows[0]["true_effective_rank"]) == pytest.approx(1, abs=1e-3)
    assert float(rows[3]["true_effective_rank"]) == pytest.approx(parts.WIDTH, abs=1e-3)
    # 64 samples in 32 dimensions: least squares has noise² d / (n - d - 1) of error for entries of variance 1 / d.
    expected = parts.NOISE**2 * parts.WIDTH / (64 - parts.WIDTH - 1)
    assert float(rows[0]["test_error"]) == pytest.approx(expected, rel=0.2)
    for part in ("kernels", "least_squares"):
        assert (tmp_path / f"simplicity_{part}.png").stat().st_size > 1000


def test_each_net_is_measured_when_it_reaches_the_loss():
    x = parts.samples(16, 0)
    y = x @ parts.planted(1, 1, 1)[0].mT
    make = {"activation": "relu", "init": "normal"}
    losses = []

    def outcome(seeds, optimizer, steps=300, bound=0.3):
        net = training.DeepNetwork(parts.WIDTH, parts.WIDTH, 3, 16, runs=len(seeds), seed=seeds, **make)

        def measure(n, which):
            assert n.runs == len(which)
            losses.append((n(x) - y).square().sum((1, 2)) / y.square().sum())
            return losses[-1]

        return training.train_to(net, x, y, optimizer, bound, steps, measure)

    for optimizer in parts.OPTIMIZERS:
        both = outcome([3, 4], optimizer)
        assert both.missed == 0
        assert bool((both.values <= 0.3).all())
        torch.testing.assert_close(both.values, both.loss)
        # A network among others takes the steps that it takes alone.
        alone = outcome([4], optimizer)
        assert int(alone.step) == int(both.step[1])
        torch.testing.assert_close(alone.values, both.values[1:], rtol=1e-3, atol=1e-5)
        # One step less, and it has not.
        short = outcome([4], optimizer, steps=int(alone.step) - 1)
        assert short.missed == 1
        assert float(short.loss) > 0.3


def test_networks_that_diverged_are_counted():
    features = torch.ones(3, 4, 2)
    features[1, 0, 0] = torch.inf
    ranks = training.kernel_ranks(features)
    assert ranks.isnan().tolist() == [False, True, False]
    found = parts.spread(ranks)
    assert (found["diverged"], found["mean"]) == (1, 1.0)
    assert parts.spread(torch.full((2,), torch.nan))["mean"] is None


def test_verdicts_need_intervals_apart():
    same = {"stage": "trained", "activation": "relu", "init": "normal", "optimizer": "adam", "rank": 1, "claimed": 1}

    def row(depth, mean, half):
        return {**same, "depth": depth, "mean": mean, "mean_low": mean - half, "mean_high": mean + half, "missed": 1}

    (clear,) = parts.verdicts([row(2, 2.0, 0.4), row(1, 3.0, 0.5), row(4, 1.0, 0.1)])
    assert clear["falls"]
    assert clear["missed"] == 3
    (overlapping,) = parts.verdicts([row(1, 3.0, 0.5), row(2, 2.0, 0.6), row(4, 1.0, 0.1)])
    assert overlapping["does_not_fall_to_depth"] == ["2"]
    nothing = {**row(2, 1.0, 0.1), "mean": None}
    assert not parts.verdicts([row(1, 3.0, 0.5), nothing])[0]["falls"]


def test_bootstrap_is_the_standard_error():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = training.bootstrap(values)
    assert low < float(values.mean()) < high
    assert (high - low) == pytest.approx(2 * 1.96 * float(values.std()) / 20, rel=0.1)


def test_planted_maps():
    maps = parts.planted(3, 50, 0)
    assert torch.linalg.matrix_rank(maps).tolist() == [3] * 50
    torch.testing.assert_close(maps.square().sum((1, 2)), torch.full((50,), float(parts.WIDTH)))
    flat = parts.planted(1, 2, 0, flat=True)
    torch.testing.assert_close(flat @ flat.mT, torch.eye(parts.WIDTH).expand(2, -1, -1), rtol=0, atol=1e-5)


@pytest.fixture
def small_cifar(monkeypatch):
    common = cifar.Training(train=16, validation=8, test=8, epochs=1, batch_size=8)
    g = torch.Generator().manual_seed(0)
    data = {
        part: (torch.randn(n, 3, 32, 32, generator=g), torch.arange(n) % 10)
        for part, n in (("train", 16), ("validation", 8), ("test", 8))
    }
    monkeypatch.setattr(cifar, "Training", lambda **changes: cifar.replace(common, **{**changes, "epochs": 1}))
    monkeypatch.setattr(cifar, "load", lambda settings, folder: data)
    monkeypatch.setattr(cifar, "DEPTHS", (1, 2))
    monkeypatch.setattr(cifar, "WEIGHTS", {"nuclear": (0.1, 0.2)})


def test_cifar_goes_on_where_it_was(tmp_path, monkeypatch, small_cifar):
    arguments = ["--only", "cifar", "--seeds", "2", "--no-progress", "--out", str(tmp_path)]
    bias.main(arguments)
    rows = read(tmp_path / "simplicity_cifar.csv")
    assert [row["method"] for row in rows] == ["plain", "depth 2", "nuclear", "nuclear", "plain", "depth 2", "nuclear"]
    assert [row["seed"] for row in rows] == ["0"] * 4 + ["1"] * 3
    chosen = [row for row in rows if row["chosen"] == "1" and row["method"] == "nuclear"]
    best = max((row for row in rows[2:4]), key=lambda row: float(row["validation"]))
    assert {row["weight"] for row in chosen} == {best["weight"]}
    assert (tmp_path / "simplicity_cifar.png").stat().st_size > 1000

    def no_training(*_):
        raise AssertionError("a finished training is read, not repeated")

    monkeypatch.setattr(cifar, "train", no_training)
    bias.main(arguments)
    assert read(tmp_path / "simplicity_cifar.csv") == rows


def test_cifar_networks_begin_alike_for_a_seed():
    first, again, other = (cifar.network(seed) for seed in (0, 0, 1))
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert cifar.accuracy(first, torch.zeros(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)) in (0.0, 1.0)


@pytest.mark.parametrize(
    ("plot", "text", "message"),
    [
        (plot_effective_ranks, "", "has no rows to plot"),
        (plot_effective_ranks, "stage,depth\na,1\n", "has no column activation; expected stage"),
        (plot_recovery, "task,samples,depth,nets\n1,24,1,3\n", "has no column test_error"),
        (
            plot_rank_penalties,
            "method,test,kernel_effective_rank,weight_effective_rank,chosen\nplain,high,1,1,1\n",
            "line 2: test is 'high'; expected a number",
        ),
    ],
)
def test_tables_that_are_none(plot, text, message, tmp_path):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        plot(tmp_path / "table.csv")


def test_kernels_that_are_none(tmp_path):
    write_tensors(tmp_path / "other.safetensors", {"weight": torch.ones(2)}, {})
    with pytest.raises(ValueError, match="holds no kernels"):
        plot_kernels(tmp_path / "other.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        plot_kernels(tmp_path / "damaged.safetensors")
