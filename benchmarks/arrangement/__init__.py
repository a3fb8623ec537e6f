"""Accuracy of local networks on features in orders, grids and trees that are found."""
