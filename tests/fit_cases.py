"""Small problems, networks that fit them, and trackers, for tests of fits."""

import pytest
import torch

import htf
from htf.nn.init import gaussian
from htf.training import Tracker


def problem(**changes):
    return htf.datasets.tensor_completion(
        **({"shape": (6, 7), "teacher": "matrix", "rank": 1, "observed": 30, "norm": 6, "seed": 3} | changes)
    )


def tensor_problem(**changes):
    return problem(**({"shape": (4, 4, 4, 4), "teacher": "cp", "observed": 150, "norm": 16} | changes))


def matrix_net(**changes):
    return htf.nn.MatrixFactorization(
        **({"dims": (6, 7), "depth": 3, "init": gaussian(std=0.05), "runs": 2, "seed": 0} | changes)
    )


def cp_net(**changes):
    return htf.nn.CPNetwork(**({"dims": (4,) * 4, "rank": [3, 5], "init": gaussian(std=0.3), "seed": 0} | changes))


def ht_net(**changes):
    tree = htf.DimensionTree.balanced(4)
    return htf.nn.HTNetwork(
        **({"tree": tree, "dims": 4, "width": [3, 4], "init": gaussian(std=0.4), "seed": 0} | changes)
    )


NETWORKS = pytest.mark.parametrize(
    ("make_net", "make_problem"), [(matrix_net, problem), (cp_net, tensor_problem), (ht_net, tensor_problem)]
)


class FirstParameter(Tracker):
    """The first parameter itself, so that a history holds the path."""

    name = "first_parameter"

    def describe(self, network):
        return {}

    def measure(self, moment):
        first = next(iter(moment.network.parameters())).detach()
        return {"value": first.flatten()[:6].repeat(moment.network.runs, 1)}


class Consecutive(FirstParameter):
    name = "consecutive"
    consecutive = True


def parameters(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])
