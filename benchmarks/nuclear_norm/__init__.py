"""Nuclear-norm minimization beside factorizations from small starts."""
