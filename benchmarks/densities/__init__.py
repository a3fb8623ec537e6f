"""Bits per dimension of densities of images."""
