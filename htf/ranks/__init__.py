"""Ranks of tensors and networks: spectra on the tree, effective and separation rank, entropies, CP rank, kernels."""

from htf.ranks.compressibility import Compressibility, LayerCompressibility, compressibility
from htf.ranks.cp_rank import CPRankEstimate, cp_rank
from htf.ranks.data_entanglement import DataEntanglement, data_entanglement
from htf.ranks.entropies import entanglement_entropies, renyi2_entropies
from htf.ranks.kernel import cluster_order, kernel_effective_rank, kernel_matrix
from htf.ranks.matricizations import hierarchical_rank, log_norm, spectra
from htf.ranks.separation import separation_rank, separation_spectrum
from htf.ranks.separation_profile import SeparationProfile, separation_profile
from htf.ranks.spectrum import effective_rank, numerical_rank, participation_ratio, stable_rank

__all__ = [
    "CPRankEstimate",
    "Compressibility",
    "DataEntanglement",
    "LayerCompressibility",
    "SeparationProfile",
    "cluster_order",
    "compressibility",
    "cp_rank",
    "data_entanglement",
    "effective_rank",
    "entanglement_entropies",
    "hierarchical_rank",
    "kernel_effective_rank",
    "kernel_matrix",
    "log_norm",
    "numerical_rank",
    "participation_ratio",
    "renyi2_entropies",
    "separation_profile",
    "separation_rank",
    "separation_spectrum",
    "spectra",
    "stable_rank",
]
