"""Fourier neural operators with factorized weights on Darcy flow."""
