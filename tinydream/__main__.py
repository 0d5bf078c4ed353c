"""python -m tinydream."""

from .cli import entry

entry()
