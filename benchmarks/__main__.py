"""Runs all benchmarks, one after the other, each in a process of its own."""

import subprocess
import sys

ALL = ("speed", "parity", "crops", "pipeline")

if __name__ == "__main__":
    codes = []
    for name in ALL:
        print(f"\n## {name}\n", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode)
    sys.exit(max(codes))
