"""Dense linear algebra on any backend of TensorLy, for all algorithms on trees."""
