"""The command line: thin commands over the modules that do the work."""

from .commands import entry as entry
from .commands import main as main
