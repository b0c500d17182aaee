"""`python tests/exchange --port 8900 --symbols 50 --speed 1`: an exchange to look at, until its life ends.

Prints its addresses as one line of JSON once it listens, so that a script can wait for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="exchange", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--symbols", type=int, default=2, help="how many (a replay deals them to its recordings)"
    )
    parser.add_argument("--names", nargs="*", help="the symbols by name instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--levels", type=int, default=150, help="depth of a synthetic book, a side")
    parser.add_argument("--replay", type=Path, nargs="*", help="raw recordings, *_raw.parquet")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="1 is real time, 0 stands still until POST /_step"
    )
    parser.add_argument("--life", type=float, default=600.0, help="seconds until it ends by itself")
    parser.add_argument("--recordings", type=Path, help="folder that holds factors/, for --day")
    parser.add_argument("--day", help="UTC day whose recorded factors are told (YYYY-MM-DD)")
    return parser.parse_args()


def main() -> int:
    from exchange import Factors, LoopbackExchange, ReplayMarket, SyntheticMarket, symbol_names

    given = arguments()
    wanted: Any = given.names or given.symbols
    if given.replay:
        market: Any = ReplayMarket(given.replay, symbol_names(wanted))
    else:
        market = SyntheticMarket(wanted, seed=given.seed, levels=given.levels, phased=True)
    factors = Factors()
    if given.day and given.recordings:
        factors.take_day(given.recordings, given.day)
    with LoopbackExchange(
        market, speed=given.speed, port=given.port, life_s=given.life, factors=factors
    ) as running:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(
            json.dumps({"url": running.url, "ws_url": running.ws_url, "symbols": len(running.line_of)}),
            flush=True,
        )
        with contextlib.suppress(KeyboardInterrupt):
            running.join()
    return 0


if __name__ == "__main__":
    # `python tests/exchange` puts this folder on the path, not the one that holds the package.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.exit(main())
