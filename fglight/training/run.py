"""One run: from a configuration to a trained network and a run directory."""

import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from fglight.build import build_data, build_estimator, build_model
from fglight.config import check_config
from fglight.config.fixed import FIXED
from fglight.config.rules import LIGHTNING
from fglight.data import DataModule
from fglight.diagnostics.profile import step_costs
from fglight.errors import ConfigError, ProcessError, one_line
from fglight.estimators import GradientEstimator
from fglight.models import BlockNetwork
from fglight.processes import Terminated, terminable
from fglight.runs.folder import CHECKPOINT, FAILURE, RESULT, claim, read_result, write_config, write_json
from fglight.runs.record import build_result, judged_on, summary
from fglight.runs.settings import RunFacts, check_unchanged, in_short
from fglight.text import counted
from fglight.training.build import build_callbacks, build_metrics, build_optimizer, build_scheduler
from fglight.training.checkpoint import LastCheckpoint
from fglight.training.failing import FirstFailure
from fglight.training.loggers import build_loggers, finishing, wandb_id
from fglight.training.module import ForwardGradientModule
from fglight.training.progress import ProgressBar
from fglight.training.quiet import quieten
from fglight.training.seeds import Seeds, check_seeds
from fglight.training.setup import NeedTests, SetUp
from fglight.training.stopping import KeepSigterm, StopAfter
from fglight.training.weights import begin_with


def train(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Train as configured, leave everything in a run directory, and print a summary.

    The directory gets ``config.yaml`` (resolved), ``metrics/``, ``checkpoints/last.ckpt`` and, at the end,
    ``result.json``. A run that was interrupted goes on from its checkpoint and ends as it would have without the
    interruption; one that is finished is not done again. A larger ``trainer.max_epochs`` than before trains it on, and
    ``result.json`` stays as it was until then.

    Args:
        cfg: a configuration as ``load_config`` composes it.
        run_dir: the directory; it is made where it does not exist.

    Returns:
        What ``result.json`` holds.

    Raises:
        ConfigError: a setting means nothing, or the directory holds a run with other settings.
        DataError: files of the data set are missing or damaged.
        NonFiniteLossError: training diverged.
        RunBusyError: another process is writing the directory.
    """
    check_config(cfg)
    estimator = build_estimator(cfg)
    _share_cores()
    facts = RunFacts.of(cfg)
    failing = FirstFailure(run_dir, facts.named)
    if rank_zero_only.rank > 0:  # type: ignore[attr-defined]  # the first of several processes keeps the directory
        return _train(facts, estimator, run_dir, failing, None)
    run_dir.mkdir(parents=True, exist_ok=True)
    with claim(run_dir):
        check_unchanged(facts.settings, run_dir, may_be_longer=True)
        before = read_result(run_dir)
        if before is not None and before["recipe"]["epochs"] >= cfg.trainer.max_epochs:
            Console().print(summary(before, run_dir))
            return before
        write_config(facts.settings, run_dir)
        try:
            with terminable(lambda: _last_checkpoint(run_dir)), finishing(cfg):
                result = _train(facts, estimator, run_dir, failing, before)
        except ProcessError:
            raise
        except Exception as error:
            failing.write(error)
            raise
        write_json(run_dir / RESULT, result)
        (run_dir / FAILURE).unlink(missing_ok=True)
    Console().print(summary(result, run_dir))
    return result


def _train(
    facts: RunFacts,
    estimator: GradientEstimator,
    run_dir: Path,
    failing: FirstFailure,
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    quieten()
    cfg = facts.cfg
    L.seed_everything(cfg.seed, verbose=False)
    data = build_data(cfg)
    data.prepare_data()
    data.setup("fit")
    model = build_model(cfg)
    callbacks = build_callbacks(cfg)
    checkpoint = LastCheckpoint(run_dir / CHECKPOINT)
    resumed = checkpoint.usable()
    first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    console = Console(quiet=not first)
    seeds = [Seeds()] if cfg.checkpoint == "seeds" else []
    if seeds:
        check_seeds(estimator, model, cfg)
    if cfg.ckpt_path is not None and (resumed is None or seeds):
        kept = _begin_with(cfg, model)
        if kept:
            console.print(f"Not from {cfg.ckpt_path}, but new: {', '.join(kept)}", soft_wrap=True, markup=False)
    options = _trainer_options(cfg)
    max_steps, schedule = options.pop("max_steps"), None
    if max_forwards := options.pop("max_forwards"):
        max_steps, epochs = _within(max_forwards, cfg, estimator, model, data)
        schedule, options["max_epochs"] = (cfg.trainer.max_epochs, max_steps), epochs
    logged = first and not options.get("fast_dev_run")  # of which Lightning logs nothing
    loggers = build_loggers(cfg, run_dir, checkpoint.wandb_id, facts=facts) if logged else []
    checkpoint.wandb_id = wandb_id(loggers)
    # Every refresh waits for the device.
    progress = ProgressBar(judged_on(cfg.data.get("holdout")), cfg.trainer.log_every_n_steps)
    try:
        trainer = L.Trainer(
            **options,
            use_distributed_sampler=False,  # the data modules share batches out
            default_root_dir=run_dir,
            logger=loggers,
            callbacks=[
                failing,
                SetUp(),
                NeedTests(),
                StopAfter(max_steps),
                checkpoint,
                *seeds,
                KeepSigterm(),
                *callbacks,
                *([progress] if cfg.trainer.enable_progress_bar else []),
            ],
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:  # such as no such device, or not so many
        raise refusal(cfg, error) from error
    if cfg.trainer.sync_batchnorm and trainer.world_size > 1 and trainer.strategy.root_device.type == "cpu":
        raise ConfigError("trainer.sync_batchnorm must be false on CPUs")
    if trainer.world_size > 1 and not isinstance(data, DataModule):
        raise ConfigError(
            f"trainer.devices must be 1 with data._target_={cfg.data._target_}, of which each process would have all "
            f"batches, got {cfg.trainer.devices} (a fglight.data.DataModule shares them out)"
        )
    other = (f"{name}={value}" for name, value in in_short(facts.differences).items() if name != "trainer.max_epochs")
    length = [counted(trainer.max_epochs, "epoch"), *other]
    console.print(
        f"[bold]{facts.cell}[/bold] seed {cfg.seed}: {', '.join(length)}, into {os.path.relpath(run_dir)}"
        f"{', going on from its last checkpoint' if resumed else ''}"
        f"{', compiling a step on the way, which may take minutes' if cfg.compile is True else ''}",
        soft_wrap=True,
    )
    module = ForwardGradientModule(
        model,
        estimator,
        optimizer=build_optimizer(cfg, trainer.strategy.root_device),
        scheduler=build_scheduler(cfg),
        interval=cfg.scheduler.interval,
        block_lr=cfg.optim.get("block_lr"),
        decay_vectors=cfg.optim.get("decay_vectors", True),
        warmup=cfg.scheduler.get("warmup", 0),
        schedule=schedule,
        clip_norm=cfg.clip_norm,
        metrics=build_metrics(cfg),
        seed=cfg.seed,
        cosine=cfg.cosine,
        measure=cfg.measure,
        channels_last=cfg.channels_last,
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True)
    except MisconfigurationException as error:  # such as a fraction of the batches that is less than one
        raise refusal(cfg, error) from error
    except Exception as error:
        if "Early stopping conditioned on metric" in str(error):
            raise ConfigError(f"callbacks cannot be used: {one_line(error)}") from error
        failing.check(error)
        raise
    except Terminated:
        _end_processes(trainer)
        raise
    if not trainer.global_step:  # of modules of one's own: ours say by themselves how many samples they need
        raise ConfigError(f"data={cfg.data.name} must give a batch to train on, and its train_dataloader gives none")
    return build_result(
        facts,
        epochs_done=trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
        steps=trainer.global_step,
        metrics=checkpoint.metrics,
        seconds=checkpoint.seconds,
        device=_device_name(trainer.strategy.root_device),
        before=before if resumed else None,
    )


def _begin_with(cfg: DictConfig, model: BlockNetwork) -> list[str]:
    """Give a network the weights that ``ckpt_path`` names; see ``begin_with``."""
    try:
        return begin_with(model, Path(cfg.ckpt_path).expanduser(), cfg.data.num_classes)
    except ConfigError as error:
        raise ConfigError(f"ckpt_path={cfg.ckpt_path} is not possible: {error}") from error


def _trainer_options(cfg: DictConfig) -> dict[str, Any]:
    """The arguments for Lightning's Trainer that a run does not decide on; null is as if it were not given."""
    given = OmegaConf.to_container(cfg.trainer, resolve=True)
    chosen = {name: value for name, value in given.items() if value is not None and name not in FIXED}
    return {"enable_model_summary": False, "max_steps": -1, "max_forwards": None} | chosen


def _within(
    max_forwards: float, cfg: DictConfig, estimator: GradientEstimator, model: BlockNetwork, data: L.LightningDataModule
) -> tuple[int, int]:
    """How many steps, and epochs, training may have for so many forward passes of the network on a batch.

    Raises:
        ConfigError: none, or another setting limits it, too, or there are no lengths.
    """
    limits = ("max_steps", "limit_train_batches", "fast_dev_run")
    others = [name for name in limits if cfg.trainer.get(name) not in (None, False, -1)]
    if others:
        raise ConfigError(f"trainer.max_forwards says how long training is: leave out trainer.{others[0]}")
    with isolate_rng():
        loader = data.train_dataloader()
        images, labels = next(iter(loader))
        cost = step_costs(estimator, model.blocks, images, labels).forwards
    steps = int(max_forwards / cost)
    if steps < 1:
        raise ConfigError(
            f"trainer.max_forwards must be at least the {cost:.1f} forward passes that a step takes, got {max_forwards}"
        )
    return steps, math.ceil(steps / len(loader))


def refusal(cfg: DictConfig, error: Exception) -> ConfigError:
    """What Lightning refuses, in a line that names the option."""
    named = [name for name in cfg.trainer if name in LIGHTNING and name in str(error)] or ["accelerator", "devices"]
    chosen = " ".join(f"trainer.{name}={cfg.trainer[name]}" for name in named)
    return ConfigError(f"{chosen} is not possible here: {one_line(error)}")


def _last_checkpoint(run_dir: Path) -> str:
    path = run_dir / CHECKPOINT
    return f"; last checkpoint: {os.path.relpath(path)}" if path.exists() else " before the first checkpoint"


def _end_processes(trainer: L.Trainer) -> None:
    """End the processes that Lightning has started for the run, as it does itself after Ctrl-C."""
    launcher: Any = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(signal.SIGKILL)
        launcher.procs.clear()  # else Lightning's watch over them would kill this process as well


def _share_cores() -> None:
    """Keep to the threads that a launcher leaves to a job that runs beside others."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and int(threads) > 0:
        torch.set_num_threads(int(threads))


def _device_name(device: torch.device) -> str:
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {torch.get_num_threads()} threads"
    )
