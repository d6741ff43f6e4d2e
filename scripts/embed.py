"""``facerec embed`` as a script: takes the same options."""

import sys

from facerec.cli import entry

if __name__ == "__main__":
    sys.argv.insert(1, "embed")
    entry()
