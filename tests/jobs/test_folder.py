"""Jobs with folders of their own."""

import csv
import re
import shutil
from dataclasses import dataclass, replace

import pytest
import torch
from job_cases import Slope, fail_below_zero

from htf._files import write_json
from htf.jobs import FolderJob, collect, map_jobs


def never(share):
    """A report that nobody reads."""


JOBS = [Slope(rate, seed) for rate in (0.1, 0.3) for seed in (0, 1)]


def times(out):
    return {path: path.stat().st_mtime_ns for path in out.glob("jobs/*/row.json")}


def test_what_is_finished_is_read_and_all_rows_are_in_one_table(tmp_path):
    first = {str(job): row for job, row in map_jobs(Slope.within(tmp_path), JOBS[:2], progress=False)}
    before = times(tmp_path)
    assert {path.parent.name for path in before} == {job.name for job in JOBS[:2]} == set(first)
    rows = {str(job): row for job, row in map_jobs(Slope.within(str(tmp_path)), JOBS, progress=False)}
    assert {name: rows[name] for name in first} == first
    assert {path: times(tmp_path)[path] for path in before} == before
    # As they are without any folder.
    assert Slope.within(None)(JOBS[3], never) == rows[JOBS[3].name]
    assert collect(Slope, tmp_path, key=lambda row: (row["seed"], row["rate"])) == [
        rows[job.name] for job in sorted(JOBS, key=lambda job: (job.seed, job.rate))
    ]
    with (tmp_path / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == Slope.columns
    assert [(row["seed"], row["rate"]) for row in table] == [("0", "0.1"), ("0", "0.3"), ("1", "0.1"), ("1", "0.3")]
    losses = [rows[Slope(float(row["rate"]), int(row["seed"])).name]["loss"] for row in table]
    assert [float(row["loss"]) for row in table] == losses
    collect(Slope, tmp_path, tmp_path / "more" / "all.csv")
    assert len((tmp_path / "more" / "all.csv").read_text().splitlines()) == 5


def test_processes_come_to_the_same(tmp_path):
    run = Slope.within(tmp_path, steps=3)
    rows = {str(job): row for job, row in map_jobs(run, JOBS[:2], workers=2, progress=False)}
    assert rows == {job.name: Slope.within(None, steps=3)(job, never) for job in JOBS[:2]}


def test_a_job_that_was_stopped_goes_on(tmp_path):
    whole, shares = Slope.within(None)(JOBS[0], never), []

    def stopping(share):
        shares.append(share)
        if len(shares) == 4:
            raise KeyboardInterrupt

    run = Slope.within(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(JOBS[0], stopping)
    assert JOBS[0].finished(tmp_path) is None
    assert run(JOBS[0], shares.append) == whole == JOBS[0].finished(tmp_path)
    assert shares == pytest.approx([k / 6 for k in range(1, 7)])


def test_jobs_differ_by_any_setting_and_by_nothing_else():
    assert len({job.digest for job in JOBS}) == len({job.name for job in JOBS}) == 4
    assert Slope(0.1, 0) == JOBS[0]
    assert Slope(0.1).digest == JOBS[0].digest
    assert str(JOBS[0]) == JOBS[0].name == f"slope_{JOBS[0].digest[:8]}"
    # As of earlier versions: folders are found again.
    assert JOBS[0].digest == "b5331af924bee979922be838c431a105bcfa425ebea18f99130c22dbc01eb355"


@dataclass(frozen=True)
class Returning(FolderJob):
    """Returns what it is given."""

    seed: int = 3
    sizes: tuple[int, ...] = (1, 2)

    def compute(self, folder, report, *, found=None):
        return {"double": 2 * self.seed} if found is None else found


def test_a_row_has_settings_columns_and_digest(tmp_path):
    run = Returning.within(tmp_path)
    expected = {"seed": 3, "sizes": [1, 2], "double": 6, "settings_sha256": Returning().digest}
    assert run(Returning(), never) == expected
    assert list(collect(Returning, tmp_path)[0].items()) == list(expected.items())
    # A setting may be among the columns, as it is.
    found = {"seed": 5, "sizes": (1, 2), "more": None}
    assert Returning.within(tmp_path, found=found)(Returning(5), never)["sizes"] == [1, 2]
    assert [row.get("more", "") for row in collect(Returning, tmp_path)].count(None) == 1


def test_temporary_files_are_deleted(tmp_path):
    @dataclass(frozen=True)
    class Leaving(Returning):
        temporary = ("checkpoint*", "*/deep*")

        def compute(self, folder, report):
            (folder / "sub").mkdir()
            for name in ("checkpoint.1", "sub/deep", "kept"):
                (folder / name).touch()
            return {}

    job = Leaving()
    Leaving.within(tmp_path)(job, never)
    assert {path.name for path in job.folder(tmp_path).rglob("*")} == {"sub", "kept", "lock", "row.json"}


class TestBadInput:
    @pytest.mark.parametrize(
        ("found", "error", "message"),
        [
            ([1], TypeError, r"compute of returning_\w+ returned a list; expected a dict of columns"),
            ({"a": torch.ones(1)}, TypeError, "compute of returning_.* is not what JSON can hold: .* Tensor"),
            ({"seed": 4}, ValueError, r"compute of returning_\w+ returned seed = 4; its own is 3"),
            ({"settings_sha256": "no"}, ValueError, "returned settings_sha256 = 'no'; its own is"),
        ],
    )
    def test_what_compute_returns(self, found, error, message, tmp_path):
        for out in (None, tmp_path):
            with pytest.raises(error, match=message):
                Returning.within(out, found=found)(Returning(), never)
        assert not times(tmp_path)
        assert Returning.within(tmp_path)(Returning(), never)["double"] == 6

    def test_a_class_that_is_no_dataclass(self):
        class Plain(FolderJob):
            rate = 3

            def compute(self, folder, report):
                return {}

        with pytest.raises(TypeError, match="Plain is no dataclass"):
            Plain().name  # noqa: B018

    @pytest.mark.parametrize("label", ["", "a/b", "..\\b"])
    def test_a_label_that_is_no_name(self, label):
        @dataclass(frozen=True)
        class Named(Returning):
            label = ""

        Named.label = label
        with pytest.raises(ValueError, match=r"label of Named is .*; expected the beginning of a folder's name"):
            Named().name  # noqa: B018

    def test_settings_that_no_file_can_hold(self):
        with pytest.raises(TypeError, match="seed of Returning is not what JSON can hold"):
            Returning(seed=torch.ones(1)).digest  # noqa: B018

    def test_a_folder_of_other_jobs(self, tmp_path):
        Slope.within(tmp_path)
        with pytest.raises(ValueError, match="is no series of Returning jobs but a series of Slope jobs"):
            Returning.within(tmp_path)

    def test_a_folder_that_workers_do_not_see(self, tmp_path):
        run = Returning.within(tmp_path / "run")
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(FileNotFoundError, match="is not the folder of this run; all workers must see the same one"):
            run(Returning(), never)
        assert not (tmp_path / "run").exists()

    def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(self, tmp_path):
        run = Returning.within(tmp_path, found={"never": "computed"})
        (tmp_path / "jobs").write_text("in the way")
        with pytest.raises(OSError, match="jobs"):
            run(Returning(), never)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda file: file.write_bytes(file.read_bytes()[:-9]), "row.json is not valid JSON"),
            (lambda file: write_json(file, {"other": 1}, "the row of a job"), "does not hold the row of a job"),
            (lambda file: write_json(file, [1], "the row of a job"), "does not hold the row of a job"),
            (lambda file: write_json(file, {"settings_sha256": ""}, "the row of a job"), "does not hold the row of a"),
            (
                lambda file: write_json(file, {"settings_sha256": Returning(4).digest}, "the row of a job"),
                "is of another job than the folder, with settings",
            ),
        ],
    )
    def test_files_of_something_else(self, change, message, tmp_path):
        run = Returning.within(tmp_path)
        run(Returning(), never)
        change(Returning().file(tmp_path))
        for call in (lambda: run(Returning(), never), lambda: collect(Returning, tmp_path)):
            with pytest.raises(ValueError, match=message) as error:
                call()
            assert str(Returning().file(tmp_path)) in str(error.value)

    def test_a_job_that_fails_leaves_no_row_and_the_others_go_on(self, tmp_path):
        @dataclass(frozen=True)
        class Failing(Returning):
            def compute(self, folder, report):
                return {"square": fail_below_zero(self.seed, report)}

        jobs = [Failing(2), Failing(-1), Failing(3)]
        warned = pytest.warns(RuntimeWarning, match=rf"job {jobs[1].name} failed")
        with warned, pytest.raises(ValueError, match="there is no job -1"):
            list(map_jobs(Failing.within(tmp_path), jobs, progress=False))
        assert sorted(row["square"] for row in collect(Failing, tmp_path)) == [4, 9]


def test_a_renamed_job_is_another_folder():
    @dataclass(frozen=True)
    class Named(Returning):
        @property
        def label(self):
            return f"of_seed_{self.seed}"

    assert re.fullmatch(r"of_seed_3_[0-9a-f]{8}", Named().name)
    assert Named().digest == replace(Returning()).digest
