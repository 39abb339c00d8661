"""Whether the files of a sweep's data sets are there."""

from collections.abc import Iterable, Mapping

from omegaconf import DictConfig

from fglight.errors import DataError
from fglight.sweeps.jobs import Job


def missing_files(jobs: Iterable[Job], configs: Mapping[str, DictConfig]) -> str:
    """What to say of files that are missing, and will not be downloaded.

    Args:
        jobs: the runs that need them.
        configs: their configurations, by name.

    Returns:
        What the data sets say of it, each once, and how to leave them out; empty where nothing is missing.
    """
    data = {str(configs[job.name].data): (job.cell.data, configs[job.name]) for job in jobs}
    found = [(name, _missing(cfg)) for name, cfg in data.values()]
    without = {name: None for name, words in found if words}
    if not without:
        return ""
    others = {name: None for name, _ in found if name not in without}
    leave = f"Or leave {' and '.join(without)} out with data={','.join(others)}." if others else ""
    return " ".join(dict.fromkeys(words for words in (*(words for _, words in found), leave) if words))


def _missing(cfg: DictConfig) -> str:
    from fglight.build import build_data
    from fglight.data import DataModule  # loads torch

    try:
        data = build_data(cfg)
        if isinstance(data, DataModule):
            data.check_files()
    except DataError as error:
        return str(error)
    return ""
