"""A soak: the whole system at many times its speed, and whether any service's memory grows.

    python tools/soak.py [--minutes 30] [--speed 10] [--home DIR] [--members 1] [--json FILE]

Starts every service as a process on a real grid with `dolphin up --all`, samples the resident memory of each
every ten seconds, and at the end fits a line to what came after the first third. The interval of its slope is
a moving-block bootstrap, because one sample is much like the one before. Fails when a service's slope is
above the bound with all of its interval, when one was restarted, or when a log holds an error. Everything
runs on this machine and stops by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import psutil

from dolphin.services.home import Home
from dolphin.services.supervision import Supervisor

EVERY_S = 10.0
BOUND_MB_H = 2.0
DRAWS = 2000
BLOCK = 12
SEED = 7


def dolphin(*words: str) -> subprocess.CompletedProcess[str]:
    """Run one command of the command line."""
    return subprocess.run(
        [sys.executable, "-m", "dolphin", *words], capture_output=True, text=True, check=False, timeout=300
    )


def slope_mb_h(seconds: np.ndarray, mb: np.ndarray) -> tuple[float, float, float]:
    """(slope, low, high) in MB an hour with its 95 % interval, of samples of shape (n,)."""

    def fit(at: np.ndarray) -> float:
        t, y = seconds[at], mb[at]
        t = t - t.mean()
        spread = float(t @ t)
        return float(t @ (y - y.mean())) / spread * 3600.0 if spread > 0.0 else 0.0

    n = len(mb)
    whole = fit(np.arange(n))
    draw = np.random.default_rng(SEED)
    block = min(BLOCK, max(1, n // 4))
    residual = mb - (mb.mean() + whole / 3600.0 * (seconds - seconds.mean()))
    line = mb - residual
    slopes = []
    for _ in range(DRAWS):
        starts = draw.integers(0, n - block + 1, size=-(-n // block))
        noise = np.concatenate([residual[s : s + block] for s in starts])[:n]
        t = seconds - seconds.mean()
        y = line + noise
        slopes.append(float(t @ (y - y.mean())) / float(t @ t) * 3600.0)
    low, high = np.percentile(slopes, (2.5, 97.5))
    return whole, float(low), float(high)


def sample(home: Path) -> dict[str, tuple[float, float]]:
    """(resident MB, CPU seconds) by service and grid member."""
    found: dict[str, tuple[float, float]] = {}
    for service in Supervisor(Home(home)).services():
        if not service.pid:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(service.pid)
            times = process.cpu_times()
            found[service.name] = (process.memory_info().rss / 1e6, times.user + times.system)
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if any("HazelcastMemberStarter" in word for word in words) and str(home) in " ".join(words):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                found[f"member {process.pid}"] = (
                    process.memory_info().rss / 1e6,
                    times.user + times.system,
                )
    return found


def errors_in(home: Path) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Counts of warnings and errors by (service, level), and the errors' lines."""
    counts: Counter[tuple[str, str]] = Counter()
    lines: list[str] = []
    for path in sorted((home / "logs").glob("*.jsonl*")):
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                lines.append(f"{path.name}: no JSON: {text[:200]}")
                continue
            level = str(line.get("level", line.get("levelname", ""))).upper()
            if level in ("WARNING", "ERROR", "CRITICAL"):
                counts[path.name.split(".")[0], level] += 1
                if level != "WARNING":
                    lines.append(f"{path.name}: {text[:300]}")
    return counts, lines


def soak(home: Path, minutes: float, speed: float, members: int, extra: list[str]) -> dict[str, Any]:
    """Run the system and return the figures."""
    up = dolphin(
        "up", "--all", "--home", str(home), "--speed", f"{speed:g}", "--members", str(members), *extra
    )
    if up.returncode != 0:
        raise SystemExit(f"the system did not start: {up.stderr.strip() or up.stdout.strip()}")
    print(up.stdout.strip(), flush=True)
    samples: list[tuple[float, dict[str, tuple[float, float]]]] = []
    started = monotonic()
    never = threading.Event()
    restarts: Counter[str] = Counter()
    last_pids: dict[str, int] = {}
    try:
        while (now := monotonic() - started) < minutes * 60.0:
            samples.append((now, sample(home)))
            for service in Supervisor(Home(home)).services():
                if last_pids.get(service.name, service.pid) != service.pid:
                    restarts[service.name] += 1
                last_pids[service.name] = service.pid
            never.wait(max(0.0, EVERY_S - (monotonic() - started - now)))
        status = dolphin("status", "--home", str(home))
        counts, lines = errors_in(home)
    finally:
        down = dolphin("down", "--home", str(home))
    skip = minutes * 60.0 / 3.0
    rows = []
    for name in sorted({name for _, found in samples for name in found}):
        held = [(at, *found[name]) for at, found in samples if name in found]
        after = [(at, mb) for at, mb, _ in held if at >= skip]
        seconds, mb = np.array([a for a, _ in after]), np.array([m for _, m in after])
        slope, low, high = slope_mb_h(seconds, mb) if len(mb) > 8 else (float("nan"),) * 3
        rows.append({
            "service": name, "rss_mb_first": held[0][1], "rss_mb_last": held[-1][1],
            "rss_mb_max": max(m for _, m, _ in held),
            "slope_mb_h": slope, "low_mb_h": low, "high_mb_h": high, "n": len(mb),
            "cpu_pct": (held[-1][2] - held[0][2]) / max(1e-9, held[-1][0] - held[0][0]) * 100.0,
        })  # fmt: skip
    return {
        "minutes": minutes,
        "speed": speed,
        "rows": rows,
        "restarts": dict(restarts),
        "warnings": {f"{service} {level}": n for (service, level), n in sorted(counts.items())},
        "errors": lines,
        "status": status.stdout,
        "down": down.returncode,
    }


def main() -> int:
    """Soak, print the table; 0 when nothing grew, restarted or erred."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--speed", type=float, default=10.0)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--json", type=Path)
    args, extra = parser.parse_known_args()
    with contextlib.ExitStack() as stack:
        home = args.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dolphin-soak-")))
        result = soak(home, args.minutes, args.speed, args.members, extra)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    print(f"{args.minutes:g} minutes at {args.speed:g} times the speed; slopes after the first third")
    heads = (("first MB", 9), ("last MB", 9), ("max MB", 9), ("MB/h", 8), ("95 % interval", 18), ("CPU %", 7))
    print(f"{'service':<18}" + "".join(f"{text:>{width}}" for text, width in heads))
    failed = 0
    for row in result["rows"]:
        grows = row["low_mb_h"] > BOUND_MB_H and not row["service"].startswith("member")
        failed += grows
        memory = "".join(f"{row[f'rss_mb_{which}']:>9.1f}" for which in ("first", "last", "max"))
        interval = f"{row['low_mb_h']:.2f} to {row['high_mb_h']:.2f}"
        verdict = "  GROWS" if grows else "  open" if row["high_mb_h"] > BOUND_MB_H else ""
        print(
            f"{row['service']:<18}{memory}{row['slope_mb_h']:>8.2f}{interval:>18}{row['cpu_pct']:>7.1f}{verdict}"
        )
    for name, n in result["restarts"].items():
        print(f"restarted: {name} {n} times")
    for name, n in result["warnings"].items():
        print(f"{name}: {n}")
    for line in result["errors"][:20]:
        print(f"error: {line}")
    print(result["status"])
    failed += len(result["restarts"]) + len(result["errors"]) + (result["down"] != 0)
    print(f"{'FAILED' if failed else 'passed'}: {failed} findings")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
