"""Accuracy against size of factorized and over-parameterized networks."""
