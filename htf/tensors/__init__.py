"""The hierarchical Tucker format in TensorLy's conventions, on any of its backends."""

from htf.tensors.arithmetic import ht_add, ht_hadamard, ht_outer, ht_scale
from htf.tensors.comparison import ht_relative_error
from htf.tensors.complex_parts import ht_conj, ht_imag, ht_real
from htf.tensors.contraction import ht_contract, ht_mean, ht_mode_dot, ht_multi_mode_dot, ht_sum, ht_tensordot
from htf.tensors.conversion import cp_to_ht, ht_to_cp, ht_to_tt, ht_to_tucker, tt_to_ht, tucker_to_ht
from htf.tensors.dense import ht_to_tensor, ht_to_unfolded, ht_to_vec
from htf.tensors.extremes import ExtremeIndex, ExtremeValue, ht_argmax, ht_argmin
from htf.tensors.ht_tensor import HTTensor
from htf.tensors.indexing import ht_entries, ht_getitem
from htf.tensors.inner import ht_distance, ht_inner, ht_norm
from htf.tensors.modulus import Modulus
from htf.tensors.orthogonal import ht_orthogonalize, ht_singular_values
from htf.tensors.random import random_ht
from htf.tensors.rank import rank_bounds, validate_ht_rank
from htf.tensors.reshaping import ht_permute, ht_reshape
from htf.tensors.retree import ht_change_tree, ht_move_root
from htf.tensors.rounding import ht_round, ht_round_sum, quasi_optimality
from htf.tensors.sampling import ht_sample
from htf.tensors.scalars import ht_add_scalar, ht_power
from htf.tensors.storage import load, save

__all__ = [
    "ExtremeIndex",
    "ExtremeValue",
    "HTTensor",
    "Modulus",
    "cp_to_ht",
    "ht_add",
    "ht_add_scalar",
    "ht_argmax",
    "ht_argmin",
    "ht_change_tree",
    "ht_conj",
    "ht_contract",
    "ht_distance",
    "ht_entries",
    "ht_getitem",
    "ht_hadamard",
    "ht_imag",
    "ht_inner",
    "ht_mean",
    "ht_mode_dot",
    "ht_move_root",
    "ht_multi_mode_dot",
    "ht_norm",
    "ht_orthogonalize",
    "ht_outer",
    "ht_permute",
    "ht_power",
    "ht_real",
    "ht_relative_error",
    "ht_reshape",
    "ht_round",
    "ht_round_sum",
    "ht_sample",
    "ht_scale",
    "ht_singular_values",
    "ht_sum",
    "ht_tensordot",
    "ht_to_cp",
    "ht_to_tensor",
    "ht_to_tt",
    "ht_to_tucker",
    "ht_to_unfolded",
    "ht_to_vec",
    "load",
    "quasi_optimality",
    "random_ht",
    "rank_bounds",
    "save",
    "tt_to_ht",
    "tucker_to_ht",
    "validate_ht_rank",
]
