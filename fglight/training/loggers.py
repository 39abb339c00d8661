"""Where a run's metrics go: CSV files, and Weights & Biases."""

import glob
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from omegaconf import DictConfig

from fglight.errors import ConfigError, one_line
from fglight.runs.folder import METRICS
from fglight.runs.settings import RunFacts


def build_loggers(
    cfg: DictConfig, run_dir: Path, resumed: str | None = None, *, facts: RunFacts | None = None
) -> list[Logger]:
    """CSV files always, and Weights & Biases unless ``logger.mode=disabled``, with the complete configuration.

    Only a run that was online all the time goes on under its id: of several parts under one id of which one is offline,
    ``wandb sync`` leaves the one that it sends last. Others have a new id, and the one before as ``continues``.

    Args:
        cfg: the configuration.
        run_dir: the run's directory.
        resumed: id of the run on Weights & Biases that goes on; None for a new one.
        facts: those of the run, where they are known already.
    """
    facts = facts or RunFacts.of(cfg)
    cell = facts.cell
    loggers: list[Logger] = [CSVLogger(run_dir, name=METRICS)]
    if cfg.logger.mode != "disabled":
        import wandb  # takes seconds

        words = (cell.data, cfg.model.name, cell.target, cell.guess, cell.aux, cell.perturb)
        tags = [*words, *(["held-out"] if cfg.data.get("holdout") else []), *cfg.logger.tags]
        given = {name: cfg.logger[name] for name in ("project", "entity", "group", "name")}
        kept_offline = run_dir.glob(f"wandb/offline-run-*-{glob.escape(resumed)}") if resumed else ()
        same = resumed if cfg.logger.mode == "online" and not any(kept_offline) else None
        names: dict[str, Any] = {name: None if value is None else str(value) for name, value in given.items()}
        try:
            run = wandb.init(
                dir=run_dir,
                mode=cfg.logger.mode,
                **names,
                tags=list(dict.fromkeys(str(word) for word in tags if word != "")),
                config={
                    **facts.settings,
                    "cell": asdict(cell),
                    **({"continues": resumed} if resumed != same else {}),
                },
                id=same or _new_wandb_id(run_dir, alone=resumed is None),
                resume="allow" if same else None,
                settings=wandb.Settings(silent=True),
                reinit="finish_previous",
            )
        except wandb.Error as error:
            raise ConfigError(
                f"Weights & Biases refuses the run ({one_line(error)}): change logger, its "
                "mode included, or the environment's WANDB_ variables"
            ) from error
        loggers.append(WandbLogger(experiment=run))
    return loggers


def wandb_id(loggers: Iterable[Logger]) -> str | None:
    """The id of the run on Weights & Biases, None where it is not logged there."""
    return next((logger.experiment.id for logger in loggers if isinstance(logger, WandbLogger)), None)


@contextmanager
def finishing(cfg: DictConfig) -> Iterator[None]:
    """Finish the run on Weights & Biases at the end, as failed where an error comes through, and wait for its file.

    Weights & Biases' own process writes the end of that file after ``finish``, and may drop it where this process ends.
    ``teardown`` waits, which else is called at exit alone: not in a process of ``multiprocessing``'s or a killed one.
    """
    exit_code = 1
    try:
        yield
        exit_code = 0
    finally:
        if cfg.logger.mode != "disabled":
            import wandb

            wandb.finish(exit_code=exit_code)
            wandb.teardown()


def _new_wandb_id(run_dir: Path, *, alone: bool) -> str:
    """``WANDB_RUN_ID``, but only for one run: others of this process, beside it on disk, or that go on draw theirs."""
    given = os.environ.pop("WANDB_RUN_ID", "")
    if alone and given and not any(run_dir.parent.glob(f"*/wandb/*run-*-{glob.escape(given)}")):
        return given
    return secrets.token_hex(4)
