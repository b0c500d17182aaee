"""One module a command: `arguments(parser)` declares, `execute(args)` does and returns the exit code.

Module level imports nothing heavy; numpy, numba and pyarrow are loaded when a command runs.
"""
