"""`python -m htf`: the `htf` command."""

import sys

from htf.cli import main

if __name__ == "__main__":
    sys.exit(main())
