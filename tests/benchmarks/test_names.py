"""Names of jobs, which are those of their folders: runs of earlier versions go on where they were."""

import pytest

from benchmarks.autoencoder.jobs import Coding
from benchmarks.compact_networks.jobs import Compact
from benchmarks.compression.jobs import RECIPES, make_job
from benchmarks.long_range import __main__ as long_range
from benchmarks.randomization.compressibility import Followed
from benchmarks.randomization.jobs import Job as Fit
from benchmarks.simplicity.cifar import Training
from htf.probes.jobs import make_jobs

PARITY = ["--task", "far_parity", "--distances", "2", "--regularizers", "none", "igc:samples=4", "--seeds", "3"]
IMAGES = {"train": 60, "validation": 20, "test": 50, "seed": 0}
TRAINING = {"lr": 0.05, "batch_size": 16, "epochs": 60, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("jobs", "files"),
    [
        (
            list(long_range.make_jobs(long_range._options(PARITY))),
            [
                "jobs/far_parity_2_convac_none_0_seed3_b3f0942e/row.json",
                "jobs/far_parity_2_convac_igc_1_seed3_996d1d70/row.json",
            ],
        ),
        (
            [Fit("digits", IMAGES, "mlp_1x512", "original", 0, training=TRAINING)],
            ["jobs/digits_mlp_1x512_original_seed0_52380873/row.json"],
        ),
        (
            [make_job(name, 0, {"lr": None, "weight_decay": None}, 5, 128, 55_000) for name in RECIPES],
            [
                "jobs/ht_seed0_2b0e4529.json",
                "jobs/matrix_seed0_fc2db95b.json",
                "jobs/deep_seed0_220dd513.json",
                "jobs/plain_seed0_9f981e4b.json",
            ],
        ),
        ([Training(), Training(penalty="log_det", weight=0.1, seed=2)], ["plain_0_0.json", "log_det_0.1_2.json"]),
        (
            [Coding("shapes", IMAGES, "l1", 1, 32, 100, 64, 3e-3, 1e-4)],
            ["jobs/shapes_l1_seed1_99aa6662/row.json"],
        ),
        (
            [Compact("cifar10", IMAGES, "kernels", {"width": 64}, 0, 14, 64, 1e-3, 0.05)],
            ["jobs/cifar10_kernels_seed0_7641102f/row.json"],
        ),
        (
            [Followed("mnist", IMAGES, "cnn", "original", 0, 0.03, 64, 100, 0.5, ("matrix",), 200)],
            ["jobs/mnist_cnn_original_seed0_a4d510c6/row.json"],
        ),
        (
            list(make_jobs(["cp", "ht"], [1, 2], [6], ["original"], [0])),
            [
                "fits/cp_1-2_original0_8ae2bde0.json",
                "fits/ht_1_original0_af55c281.json",
                "fits/ht_2_original0_79a5fd26.json",
            ],
        ),
    ],
    ids=[
        "long_range",
        "randomization",
        "compression",
        "cifar",
        "autoencoder",
        "compact_networks",
        "compressibility",
        "probe",
    ],
)
def test_files_are_where_they_were(jobs, files, tmp_path):
    assert [job.file(tmp_path).relative_to(tmp_path).as_posix() for job in jobs] == files
