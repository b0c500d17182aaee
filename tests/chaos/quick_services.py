"""What supervisord starts where a test has no minute to spare: the services, with books that show at once.

`python quick_services.py COMMAND --home DIR`; the first-flush delay of `books` is half a second here, and
`up` starts grid, supervisord and the named services, and waits for none of their start seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dolphin.services.home import Home


def up(home: Home, names: Sequence[str]) -> int:
    """Everything on its way."""
    from dolphin.services.supervision import Supervisor
    from dolphin.services.system import start_grid

    start_grid(home, home.load(), lambda text: None)
    supervisor = Supervisor(home, launch=(sys.executable, str(Path(__file__).resolve())))
    supervisor.start()
    for name in names:
        supervisor.start_service(name)
    return 0


def main(words: Sequence[str]) -> int:
    """A command."""
    from dolphin.cli import main as whole
    from dolphin.services.process import run_service
    from dolphin.services.table import BY_COMMAND

    home = Home(Path(words[words.index("--home") + 1]))
    if words[0] == "up":
        return up(home, words[1 : words.index("--home")])
    if words[0] == "books":
        return run_service(BY_COMMAND["books"], home, options={"first_flush_s": 0.5})
    return whole(words)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
