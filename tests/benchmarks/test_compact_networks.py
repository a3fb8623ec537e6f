"""The benchmark of compact networks: expansions, distillation, equal times and sizes."""

import pytest
import torch

from benchmarks.batches import Shuffled
from benchmarks.compact_networks import __main__ as compact_networks
from benchmarks.compact_networks.jobs import SOFT, Compact, Distilled, make_network, relative_times
from benchmarks.compact_networks.networks import EXPANSIONS, compact, count, expanded
from benchmarks.compact_networks.plots import plot_compact
from htf._files import read_json, write_json
from htf.nn import OverparamConv2d, OverparamLinear
from htf.surgery import collapse

COLOUR = (3, 32, 32)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_compact_network_has_the_size_that_is_told():
    state = torch.get_rng_state()
    network = compact(COLOUR, 10, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert count(network) == 73_162
    assert network(random(2, *COLOUR)).shape == (2, 10)
    assert compact((1, 28, 28), 10, seed=0)(random(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("way", EXPANSIONS)
def test_expanded_networks_fold_to_the_compact_one(way):
    plain = compact(COLOUR, 10, seed=0)
    wide = expanded(plain, way, 64, seed=0)
    layers = [module for module in wide.modules() if isinstance(module, OverparamConv2d | OverparamLinear)]
    assert len(layers) == (2 if way == "linear" else 3)
    assert {type(layer) for layer in layers} == {OverparamLinear if way == "linear" else OverparamConv2d}
    if way != "linear":
        sizes = ((1, 1), (5, 5), (1, 1)) if way == "convolutions" else ((3, 3), (3, 3))
        assert {layer.kernel_sizes for layer in layers} == {sizes}
    assert count(wide) != count(plain)
    folded = collapse(wide)
    assert [tuple(p.shape) for p in folded.parameters()] == [tuple(p.shape) for p in plain.parameters()]
    x = random(3, *COLOUR)
    torch.testing.assert_close(folded(x), wide(x), rtol=1e-3, atol=1e-5)


def test_a_way_that_there_is_not():
    with pytest.raises(ValueError, match="way is 'wider'; expected one of linear, convolutions, kernels"):
        expanded(compact(COLOUR, 10, seed=0), "wider", 4, seed=0)


@pytest.mark.parametrize("width", [2, 4])
def test_factorized_networks_are_no_larger(width):
    found = make_network("ht", {"width": width}, COLOUR, 10, seed=0)
    assert 0.9 * 73_162 < count(found) <= 73_162
    assert found(random(2, *COLOUR)).shape == (2, 10)


def test_a_plain_network_cannot_be_folded():
    with pytest.raises(ValueError, match="model has no over-parameterized or factorized layers"):
        collapse(make_network("plain", {}, COLOUR, 10, seed=0))


def test_the_loss_of_distillation():
    x, y, soft = random(6, 4), torch.arange(6) % 3, 3 * random(6, 3, seed=1)
    model = torch.nn.Linear(4, 3)
    found = Distilled(x, y, soft, 2.0, 6, seed=0).find(model, 0, 0)
    out = model(x)
    teacher, student = (torch.softmax(each / 2, 1) for each in (soft, out))
    divergence = (teacher * (teacher / student).log()).sum(1).mean() * 4
    hard = torch.nn.functional.cross_entropy(out, y)
    torch.testing.assert_close(found.losses, SOFT * divergence + (1 - SOFT) * hard)
    # From a teacher that says what the student says, only labels are to be learned.
    same = Distilled(x, y, out.detach(), 2.0, 6, seed=0).find(model, 0, 0)
    torch.testing.assert_close(same.losses, (1 - SOFT) * hard)
    assert Distilled(x, y, soft, 2.0, 6, 0).describe() != Distilled(x, y, 2 * soft, 2.0, 6, 0).describe()


def test_batches_of_distillation_are_those_of_the_others():
    x, y = random(10, 2), torch.arange(10) % 2
    one, other = Shuffled(x, y, 4, seed=3), Distilled(x, y, x, 1.0, 4, seed=3)
    assert [one.chosen(e, b).tolist() for e in (0, 1) for b in range(3)] == [
        other.chosen(e, b).tolist() for e in (0, 1) for b in range(3)
    ]
    assert torch.cat([one.chosen(1, b) for b in range(3)]).sort().values.tolist() == list(range(10))


def test_times_are_relative_to_the_first():
    makers = {name: lambda: torch.nn.Linear(4, 2) for name in ("one", "two")}
    found = relative_times(makers, random(6, 4), torch.arange(6) % 2, rounds=3)
    assert found["one"] == 1.0
    assert found["two"] > 0


def test_epochs_take_the_time_of_the_plain_network():
    options = compact_networks._options(["--models", "plain", "kernels", "--epochs", "12", "--lrs", "1e-3"])
    times = {"plain": 1.0, "kernels width 64": 1.5, "kernels width 128": 100.0}
    jobs = list(compact_networks.candidates(options, times, 0))
    assert [(job.model, job.epochs) for job in jobs] == [("plain", 12), ("kernels", 8), ("kernels", 1)]
    assert len({job.digest for job in jobs}) == 3


def test_an_interrupted_distillation_goes_on_and_leaves_the_row_that_it_would_have(tmp_path):
    images = {"train": 60, "validation": 20, "test": 20}
    job = Compact("digits", images, "distilled", {"temperature": 2.0}, 0, 1, 20, 1e-3, 0.05)
    whole = Compact.within(tmp_path / "whole")(job, lambda share: None)
    shares = []

    def stopping(share):
        shares.append(share)
        if len(shares) == 5:  # after the teacher
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Compact.within(tmp_path / "cut")(job, stopping)
    found = Compact.within(tmp_path / "cut")(job, shares.append)
    times = {"seconds": 0, "seconds_teacher": 0}
    assert found | times == whole | times
    assert shares == pytest.approx([k / 6 for k in range(1, 7)])
    assert found["teacher_parameters"] > 3 * found["parameters"]


def test_a_dry_run_leaves_results_and_a_figure_and_goes_on(tmp_path):
    arguments = ["--source", "digits", "--dry-run", "--no-progress", "--out", str(tmp_path), "--seeds", "0:1"]
    arguments += ["--models", "plain", "kernels", "ht", "--lrs", "3e-3"]
    compact_networks.main(arguments)
    out = tmp_path / "dry_run"
    found = read_json(out / "compact_networks_digits.json", sealed=False)
    rows = found["rows"]
    assert len(rows) == (1 + 2 + 2) + 3
    for model in ("plain", "kernels", "ht"):
        tried = [row for row in rows if row["model"] == model and row["seed"] == 0]
        (best,) = (row for row in tried if row["chosen"])
        assert best["validation"] == max(row["validation"] for row in tried)
        (again,) = (row for row in rows if row["model"] == model and row["seed"] == 1)
        assert (again["lr"], again["options"], again["chosen"]) == (best["lr"], best["options"], True)
    sizes = {row["model"]: row["parameters"] for row in rows}
    assert sizes["kernels"] == sizes["plain"] >= sizes["ht"]
    assert max(row["folded_differs"] for row in rows) < 1e-3
    assert found["relative_times"]["plain"] == 1.0
    assert found["machine"]["versions"]["torch"] == torch.__version__
    assert (out / "compact_networks_digits.png").stat().st_size > 1000
    times = {path: path.stat().st_mtime_ns for path in [*out.glob("jobs/*/row.json"), out / "digits_times.json"]}
    compact_networks.main(arguments)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    write_json(tmp_path / "none.json", {"rows": []})
    with pytest.raises(ValueError, match="holds no rows of networks; expected what"):
        plot_compact(tmp_path / "none.json")
