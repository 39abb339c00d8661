"""A run on disk: its folder, its settings, what it records, and what is read back. Needs no torch."""

from fglight.runs.settings import differences

__all__ = ["differences"]
