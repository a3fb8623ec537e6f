"""Experiments and timings, one folder or module per subject, each run from the checkout as a module.

    python -m benchmarks.long_range --task pathfinder --out runs/pathfinder

long_range     accuracy against distance, with and without regularizers (Razin et al. 2022); also long_range.link
randomization  networks fit random labels (Zhang et al. 2017); also randomization.compressibility and .activations
simplicity     effective rank against depth (Huh et al. 2023)
classifiers    accuracy of trees beside CNNs and tensor trains
densities      bits per dimension of densities
missing_data   accuracy where pixels are missing (Sharir et al. 2016)
autoencoder    rank of codes behind linear layers (Jing et al. 2020)
compact_networks  compact networks, expanded while they are trained (Guo et al. 2020)
compression    accuracy against size of factorized and over-parameterized networks
arrangement    accuracy on permuted features against their entanglement (Alexander et al. 2023)
dynamics       incremental learning, its rates, and norms against rank
speed          times beside peers: speed.probe, speed.dynamics, speed.ht, speed.long_range, speed.pathfinder,
               speed.overparam and speed.factorized
gpu            correctness and speed on a GPU
reliability    campaigns of damaged files, kills and mutants: reliability.fuzz, .kills and .mutants
"""
