"""A run on disk: its folder, what it records, and what is read back. Needs no torch."""
