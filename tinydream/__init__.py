"""TinyDream: pack a training set, keep it on a microcontroller, and fine-tune there."""

__version__ = "0.1.0"
