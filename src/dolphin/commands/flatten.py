"""`dolphin flatten`: see `dolphin.commands.halt`."""

from dolphin.commands.halt import arguments as arguments
from dolphin.commands.halt import execute as execute
