"""A dask cluster of two processes on this machine, for tests."""

import pytest
from distributed import LocalCluster


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=":0",  # a free port: several tests run at once
    ) as there:
        yield there


@pytest.fixture(scope="module")
def address(cluster):
    return cluster.scheduler_address
