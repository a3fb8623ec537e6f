"""Long-range tasks: accuracy against distance, with regularizers that promote hierarchical rank and without."""
