"""The command line: ``fglight COMMAND ...``, the same as ``python -m fglight COMMAND ...``."""

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module

from fglight import __version__, processes

COMMANDS = {
    "train": ("fglight.train", "train one cell, or with -m a sweep of many"),
    "eval": ("fglight.evaluate", "evaluate the networks of runs on test sets"),
    "export": ("fglight.export", "write a run's network as a file that plain torch loads"),
    "report": ("fglight.report.command", "put the results of runs beside the paper's"),
    "show": ("fglight.report.show", "print runs as one sorted table, with intervals"),
    "demo": ("fglight.demo", "train six cells on digits and show them side by side"),
    "workspace": ("fglight.report.workspace", "save the paper's tables and figures as views on Weights & Biases"),
}
"""Where each command's ``main`` is, which takes the arguments and returns the exit status, and what it does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command and its arguments; None means the process's own.

    Returns:
        The exit status.
    """
    processes.begin()  # before the imports that take a while
    listed = "\n".join(f"  {name:10} {words}" for name, (_, words) in COMMANDS.items())
    parser = ArgumentParser(
        "fglight",
        description="Train with forward gradients, and find out when they match backpropagation.",
        epilog=f"commands:\n{listed}\n\nfglight COMMAND --help tells what a command takes.",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below; its arguments follow")
    parser.add_argument("--version", action="version", version=f"fglight {__version__}")
    given = sys.argv[1:] if arguments is None else arguments
    command = parser.parse_args(given[:1]).command
    module, _ = COMMANDS[command]
    sys.path.append(os.getcwd())  # where components of one's own may lie; a script's folder only is there by itself
    try:
        run = import_module(module).main
    except ModuleNotFoundError as error:
        if not module.startswith("fglight.report") or str(error.name).startswith("fglight"):
            raise
        parser.exit(1, f"fglight {command} needs {error.name}: pip install 'fglight[report]' installs it\n")
    with processes.terminable():
        return run(given[1:])


if __name__ == "__main__":
    sys.exit(main())
