"""Spaces (Sec. 3.3): where a target is projected on a guess."""
