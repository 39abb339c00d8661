"""Gradient guesses (Sec. 3.1), a published method a file."""
