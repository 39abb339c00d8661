"""Tables of results: on the terminal, in Markdown, and what they were measured on."""

import platform
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

Rows = Sequence[Sequence[str]]


def show(title: str, header: Sequence[str], rows: Rows) -> None:
    """Print a table on the terminal."""
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console = Console()
    Console(width=max(120, console.width)).print(title, table)


def as_markdown(header: Sequence[str], rows: Rows) -> str:
    """A table in Markdown, without a line break at its end."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def machine(device: torch.device) -> str:
    """The device and the version of torch, in words."""
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{torch.get_num_threads()} threads, {platform.machine()} CPU"
    return f"{where}, torch {torch.__version__}"


def ratio(value: float, goal: float | None = None) -> list[str]:
    """Two cells: a ratio, and its goal if it has one."""
    return [f"{value:.2f}", "" if goal is None else f"{goal:.2f}"]
