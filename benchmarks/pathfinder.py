"""Pathfinder: are two dots on the same dashed curve?  See long_range.py, which takes all options but --task.

python benchmarks/pathfinder.py --scale cpu --out runs/pathfinder
"""

from __future__ import annotations

import sys

from long_range import main

if __name__ == "__main__":
    main(["--task", "pathfinder", *sys.argv[1:]])
