"""``facerec predict`` as a script: takes the same options."""

import sys

from facerec.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
