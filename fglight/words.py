"""Numbers in sentences."""


def counted(number: int | str, noun: str) -> str:
    """A number of things: ``1 epoch``, ``3 epochs``."""
    return f"{number} {noun}{'' if str(number) == '1' else 's'}"
