"""A small completion problem, and what its tests read off it."""

import torch

SMALL = {"shape": (4, 5, 6), "teacher": "cp", "rank": 2, "observed": 40}


def all_of(problem):
    return torch.cat([problem.indices, problem.test_indices])


def rows(indices):
    return {tuple(row) for row in indices.tolist()}
