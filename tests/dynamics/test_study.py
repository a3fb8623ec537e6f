import json
import math
from dataclasses import replace

import pytest
import torch

from benchmarks import dynamics
from htf._files import write_json
from htf.dynamics import CPStudy, HTStudy, MatrixStudy, Study, compare_rates, study
from htf.training.history import History

SMALL = {
    "mf": MatrixStudy(rank=1, dim=8, observed=48, init_std=(1e-1, 1e-3), seeds=(0, 1), steps=500),
    "cp": CPStudy(rank=1, dim=4, observed=48, components=8, init_std=(1e-1, 1e-2), seeds=(0, 1), steps=500),
    "ht": HTStudy(rank=1, dim=4, observed=200, width=8, init_std=(1e-1, 1e-2), seeds=(0, 1), steps=600, problem_seed=1),
}


@pytest.fixture(scope="module")
def found():
    return {form: study(settings) for form, settings in SMALL.items()}


@pytest.mark.parametrize("form", SMALL)
def test_one_component_rises_from_near_zero_and_the_rest_stays(found, form):
    one = found[form]
    assert one.runs == [(std, seed) for std in one.settings.init_std for seed in (0, 1)]
    groups = len(one.history.settings["trackers"][one.settings.tracker().name]["groups"])
    rows = one.summary()
    assert len(rows) == 2 * groups
    for row in rows[groups:]:
        assert (row.exact, row.seeds, row.risen) == (2, 2, (1, 1))
        assert row.rest < 0.01
        assert row.test_error[1] <= row.test_error[0] <= row.test_error[2] < 0.1
    # The larger start leaves more behind.
    assert max(row.rest for row in rows[groups:]) < max(row.rest for row in rows[:groups])


def test_errors_are_those_of_the_runs_of_a_scale(found):
    one = found["mf"]
    assert torch.equal(one.errors(1e-3), one.history.test_error[-1, 2:])
    assert one.summary()[1].test_error[0] == pytest.approx(float(one.errors(1e-3).mean()))
    assert one.summary()[1].loss == float(one.history.loss[-1, 2:].max())


def test_a_run_is_the_same_in_any_company(found):
    alone = study(SMALL["cp"], init_std=1e-2, seeds=1)
    torch.testing.assert_close(alone.history.loss[:, 0], found["cp"].history.loss[:, 3], rtol=1e-3, atol=1e-9)


def test_the_planted_tensors():
    for settings in SMALL.values():
        problem = settings.problem()
        assert problem.shape == settings.shape
        assert float(problem.target.square().mean()) == pytest.approx(1)
    for rank, other in ((1, 2), (2, 1)):
        ht = HTStudy(rank=rank, dim=4, observed=100)
        assert torch.linalg.matrix_rank(ht.problem().target.reshape(16, 16)) == rank
        assert len(ht._teacher()["teacher"].local_component_norms()[ht.tree.root]) == rank
        assert ht.problem().describe() != replace(ht, rank=other).problem().describe()


def test_the_table_has_a_line_for_each_scale_and_group(found):
    lines = found["ht"].table().splitlines()
    assert lines[0].startswith("hierarchical tensor factorization of width 8: 4×4×4×4, rank 1, 200 of 256 entries")
    assert [line.split()[0] for line in lines[2:8]] == ["0.1"] * 3 + ["0.01"] * 3
    assert "2 of 2" in lines[5]
    assert len(found["mf"].table().splitlines()) == 5


def test_what_is_saved_is_loaded(found, tmp_path):
    one = found["cp"]
    one.save(tmp_path)
    again = Study.load(tmp_path)
    assert again.settings == one.settings
    assert again.table() == one.table()
    assert compare_rates(again.history).table() == compare_rates(one.history).table()
    # Beside a history that is one by itself.
    assert torch.equal(History.load(tmp_path).loss, one.history.loss)


def test_a_folder_goes_on_with_more_steps_and_refuses_other_settings(tmp_path):
    short = replace(SMALL["mf"], steps=50)
    with pytest.raises(FileNotFoundError, match=r"holds no study\.json"):
        Study.load(tmp_path)
    study(short, out=tmp_path)
    longer = study(short, steps=100, out=tmp_path)
    assert longer.history.steps[-1] == 100
    assert torch.equal(longer.history.loss, study(short, steps=100).history.loss)
    with pytest.raises(ValueError, match="holds a study with rank = 1; this one has 2"):
        study(short, rank=2, out=tmp_path)
    with pytest.raises(ValueError, match="steps = 100; this one has 50"):
        study(short, out=tmp_path)
    with pytest.raises(ValueError, match="format = 'mf'; this one has 'cp'"):
        study(SMALL["cp"], out=tmp_path)
    assert Study.load(tmp_path).settings.steps == 100


def test_folders_of_something_else(tmp_path, found):
    found["mf"].history.save(tmp_path)
    with pytest.raises(ValueError, match="holds a run that is no study"):
        study(SMALL["mf"], out=tmp_path)
    write_json(tmp_path / "study.json", [], "the settings of a study")
    with pytest.raises(ValueError, match=r"study\.json is not the settings of a study"):
        Study.load(tmp_path)
    unfinished = tmp_path / "unfinished"
    found["mf"].save(unfinished)
    (unfinished / "history.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="not finished"):
        Study.load(unfinished)
    settings = json.loads((unfinished / "study.json").read_text())
    assert settings["init_std"] == [1e-1, 1e-3]


def test_settings_that_do_not_fit_leave_no_folder(tmp_path):
    out = tmp_path / "run"
    for error, changes, message in [
        (ValueError, {"init_std": (1e-2, 0.0)}, "init_std holds 0.0"),
        (ValueError, {"init_std": math.inf}, "init_std holds inf"),
        (ValueError, {"init_std": ()}, "init_std is empty"),
        (ValueError, {"seeds": (0, -1)}, "seeds holds -1"),
        (ValueError, {"steps": 0}, "steps is 0"),
        (ValueError, {"rank": 9}, "rank is 9"),
        (ValueError, {"observed": 65}, "observed"),
        (ValueError, {"loss": "l3"}, "loss is 'l3'"),
        (ValueError, {"device": "gpu"}, "device 'gpu' cannot be used"),
        (TypeError, {"width": 3}, "width is no setting of a MatrixStudy; known are rank, dim"),
        (TypeError, {"depth": 2.5}, "depth is 2.5"),
    ]:
        with pytest.raises(error, match=message):
            study(SMALL["mf"], out=out, **changes)
    with pytest.raises(ValueError, match="format is 'tt'; known are mf, cp, ht"):
        study("tt")
    assert not out.exists()


def test_equal_seeds_and_scales_count_once():
    assert MatrixStudy(seeds=(1, 1, 0), init_std=(1e-2, 0.01)).starts == [(1e-2, 1), (1e-2, 0)]
    assert HTStudy(rank=7).top == 14


def test_all_of_the_benchmark_at_a_small_scale(tmp_path):
    arguments = ["--scale", "small", "--threads", "1", "--no-progress"]
    arguments += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    dynamics.main(["--only", "mf", *arguments])
    dynamics.main(["--only", "norms", *arguments])
    report = json.loads((tmp_path / "out" / "dynamics.json").read_text())
    assert set(report) == {"mf", "norms", "seal"}
    assert report["mf"]["summary"][0]["seeds"] == 2
    assert report["norms"]["depths"]["3"]["least_spectral_norm_over_bound"] >= 1
    figures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert figures == ["dynamics_components.png", "dynamics_init.png", "dynamics_norms.png"]


def test_settings_that_do_not_fit_leave_the_folder_free(tmp_path):
    small = {"dim": 6, "rank": 1, "observed": 30, "seeds": 0, "steps": 20}
    with pytest.raises(ValueError, match="lr is -1"):
        study("mf", **small, lr=-1.0, out=tmp_path)
    with pytest.raises(ValueError, match="the gradient of run 0 vanishes"):
        study("mf", **small, init_std=1e-30, out=tmp_path)
    assert int(study("mf", **small, out=tmp_path).history.steps[-1]) == 20
