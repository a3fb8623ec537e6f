"""Dense linear algebra on any backend of TensorLy: what all algorithms on trees are made of."""
