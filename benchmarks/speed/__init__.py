"""Times of this library beside those of peers, each in one run with equal values; see `benchmarks`."""
