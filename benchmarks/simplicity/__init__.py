"""Effective rank against depth: the experiments of Huh et al. 2023."""
