"""Equality with the papers' research code, where HTF_PEERS names a folder with checkouts of it."""

import os
from argparse import Namespace
from pathlib import Path

import probe_speed
import pytest
import torch

ARGUMENTS = {"epochs": 1, "imp_reg_in_tf": None, "imp_reg_htf": None}


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randint(0, 2, (20, 784), generator=generator), torch.rand(20, generator=generator))]


def checkout(name):
    path = Path(os.environ.get("HTF_PEERS", "")) / name
    if "HTF_PEERS" not in os.environ or not path.is_dir():
        pytest.skip(f"HTF_PEERS does not hold {name}")
    return path


def test_outputs_equal_those_of_imp_reg_htf_with_the_same_weights(batches):
    options = Namespace(**{**ARGUMENTS, "imp_reg_htf": checkout("imp_reg_htf")})
    assert probe_speed.compare_ht(batches, options)["largest_output_difference"] < 1e-5


def test_outputs_equal_those_of_imp_reg_in_tf_with_the_same_weights(batches):
    options = Namespace(**{**ARGUMENTS, "imp_reg_in_tf": checkout("imp_reg_in_tf")})
    assert probe_speed.compare_cp(batches, options)["largest_output_difference"] < 1e-5
