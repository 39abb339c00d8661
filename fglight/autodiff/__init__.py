"""Differentiation of one block at a time. Knows torch and blocks, and nothing of targets and guesses."""
