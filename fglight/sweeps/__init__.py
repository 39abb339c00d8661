"""Sweeps over the paper's tables, figures and searches: what to run, where it goes, and how far it is.

``request`` reads the command line, ``jobs`` makes the list of runs, ``runner`` hands them to a Hydra launcher.
"""
