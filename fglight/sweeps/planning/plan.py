"""What a sweep would run, and how long that takes on this machine."""

from collections import Counter
from collections.abc import Mapping, Sequence

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fglight.runs.folder import State
from fglight.sweeps.jobs import Job, by_name
from fglight.sweeps.planning.kinds import Kind, Scaling, Seconds, choose
from fglight.sweeps.planning.timing import device_of, seconds_per_image
from fglight.sweeps.progress import duration
from fglight.words import counted

IMAGES = {
    "digits": (1437, 360),
    "fashion_mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "imagenet32": (1_281_167, 50_000),
    "imagenette": (9469, 3925),
}
"""Training and test images of each data set, whose files need not be there."""


def show_plan(jobs: Sequence[Job], configs: Mapping[str, DictConfig], states: Mapping[Job, State]) -> None:
    """Print what would run, how much of it is done, and how long the rest takes on this machine."""
    console = Console()
    groups = by_name(jobs)
    kinds = {name: Kind.of(cfg) for name, cfg in configs.items()}
    chosen = choose(kinds.values())
    count = f"{counted(len(groups), 'cell')}, {counted(len(jobs), 'run')}"
    print(f"{count}: measuring a few steps of {_share(chosen)} of cell", flush=True)
    seconds = _measure({kinds[name]: cfg for name, cfg in configs.items()}, chosen, quiet=not console.is_terminal)
    table = Table()
    table.add_column("runs", overflow="fold")
    for column in ("seeds", "to do", "lr", "epochs", "time each"):
        table.add_column(column, no_wrap=column != "to do")
    total, runs = 0.0, 0
    for name, group in groups.items():
        cfg = configs[name]
        each = run_seconds(cfg, *seconds[kinds[name]])
        left = sum(states[job] not in (State.FINISHED, State.RUNNING) for job in group)
        total += left * each
        runs += left
        counts = Counter(str(states[job]) for job in group)
        table.add_row(
            name,
            ",".join(str(job.seed) for job in group),
            ", ".join(f"{number} {state}" for state, number in counts.items()),
            f"{cfg.optim.lr:g}",
            str(cfg.trainer.max_epochs),
            f"{'~ ' if chosen[kinds[name]] else ''}{duration(each)}",
        )
    console.print(table)
    if note := _note(chosen):
        print(note)
    print(
        f"{count}, {runs} of them to do: about {duration(total)} one after the other "
        f"on {device_of(next(iter(configs.values()))).type}, measured on random images. Nothing was started."
    )


def run_seconds(cfg: DictConfig, train: float, test: float) -> float:
    """How long a run takes, from the seconds of an image in training and in testing."""
    training, testing = IMAGES[cfg.data.name]
    if cfg.data.holdout:
        training, testing = training * (1 - cfg.data.holdout), training * cfg.data.holdout
    return cfg.trainer.max_epochs * (training * train + testing * test)


def _measure(
    configs: Mapping[Kind, DictConfig], chosen: Mapping[Kind, Scaling | None], *, quiet: bool
) -> dict[Kind, Seconds]:
    """The seconds of all kinds, of which those without a scaling are measured."""
    wanted = [kind for kind, scaling in chosen.items() if scaling is None]
    # Others are scaled by these, which are measured with more care.
    scales = {kind for scaling in chosen.values() if scaling for kind in (scaling.relative, scaling.relative_here)}
    measured = {
        kind: seconds_per_image(configs[kind], steps=3 if kind in scales else 1)
        for kind in track(wanted, "measuring a few steps of each", transient=True, disable=quiet)
    }
    return {kind: scaling.seconds(measured) if scaling else measured[kind] for kind, scaling in chosen.items()}


def _share(chosen: Mapping[Kind, Scaling | None]) -> str:
    measured = sum(scaling is None for scaling in chosen.values())
    return f"{'each' if measured == len(chosen) else measured} of {counted(len(chosen), 'kind')}"


def _note(chosen: Mapping[Kind, Scaling | None]) -> str:
    """How the times follow that were not measured; empty where all were."""
    scalings = [scaling for scaling in chosen.values() if scaling]
    if not scalings:
        return ""
    return (
        f"{_share(chosen)} of cell were measured. A time with ~ is that of a like cell (the same network, images and "
        "perturbation with another target, guess or auxiliary network), times the ratio of the two on "
        f"{scalings[0].here.name}."
    )
