"""Perturbations (Sec. 3.3): the space in which a target is projected on a guess."""
