"""Accuracy of classifiers by trees, beside convolutional networks and tensor trains."""
