"""Train one cell, or with -m a sweep, in a checkout: ``python train.py ...`` is ``fglight train ...``."""

import sys

from fglight.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
