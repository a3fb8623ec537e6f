"""Accuracy of classifiers where pixels are missing (the protocol of Sharir et al. 2016)."""
