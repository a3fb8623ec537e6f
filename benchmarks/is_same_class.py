"""Is-Same-Class: do two images far apart show the same class?  See long_range.py, which takes all options but --task.

python benchmarks/is_same_class.py --scale cpu --out runs/is_same_class
"""

from __future__ import annotations

import sys

from long_range import main

if __name__ == "__main__":
    main(["--task", "is_same_class", *sys.argv[1:]])
