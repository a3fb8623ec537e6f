"""Networks fit noise: the generalization controls of Zhang et al. 2017."""
