"""Run every benchmark, one after the other, and print their tables."""

from __future__ import annotations

import os
import subprocess
import sys

NAMES = ("scan", "latency", "grid", "startup")

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
for name in NAMES:
    print(f"\n== {name}", flush=True)
    code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=False).returncode
    if code:
        raise SystemExit(code)
