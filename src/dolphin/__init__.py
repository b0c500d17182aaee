"""DOLPHIN: a systematic trading system for crypto perpetual futures.

Importing the package pulls in nothing heavy; every command imports what it needs when it runs.
"""

__version__ = "0.1.0"
