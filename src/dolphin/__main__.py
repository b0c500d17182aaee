"""`python -m dolphin`."""

from dolphin.cli import main

raise SystemExit(main())
