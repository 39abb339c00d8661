"""Hydra's launcher for Ray: jobs side by side on all GPUs or cores, of this machine or of a cluster."""

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class RayLauncher(Launcher):
    """Each job is a task of Ray's, and each result is looked at by itself.

    The package hydra-ray-launcher gives all jobs up where one worker or node dies. Here such a job is started again, as
    often as ``remote.max_retries`` says, and is then lost alone, with a ``failure.json`` that says so.

    Args:
        ray: ``init``, the arguments of ``ray.init``, and ``remote``, those of ``ray.remote``.
    """

    def __init__(self, ray: DictConfig) -> None:
        self.options = ray

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what jobs need.

        Raises:
            ImportError: Ray is not installed.
        """
        import ray

        self.ray = ray
        self.context, self.function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs and wait for all of them.

        Raises:
            ConfigError: Ray cannot be started or reached, or refuses the options.
        """
        setup_globals()
        task = self._task()
        configs = {}
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = str(number)
                config.hydra.job.num = number
            named = task.options(name=str(config.hydra.sweep.subdir))
            job = named.remote(self.context, config, self.function, Singleton.get_state())
            configs[job] = config
        returns, running = {}, list(configs)
        try:
            while running:
                (job, *_), running = self.ray.wait(running)
                returns[job] = self._returned(job, configs[job])
        except BaseException:
            self._stop(running)
            raise
        return [returns[job] for job in configs]

    def _task(self) -> Any:
        """The function of a job for Ray, which is started where it does not run."""
        from fglight.errors import ConfigError

        try:
            if not self.ray.is_initialized():
                options = OmegaConf.to_container(self.options.init, resolve=True)
                _check_address(options.get("address") or os.environ.get("RAY_ADDRESS", ""))
                self.ray.init(**options)
            # The GPUs that count are the cluster's: this machine may have none.
            gpus = int(self.ray.cluster_resources().get("GPU", 0) > 0)
            OmegaConf.register_new_resolver("gpus", lambda: gpus, replace=True)
            # Not self.options, which Hydra has resolved before.
            remote = self.config.hydra.launcher.ray.remote
            return self.ray.remote(**OmegaConf.to_container(remote, resolve=True))(_run)
        except (OSError, RuntimeError, TypeError, ValueError, self.ray.exceptions.RayError) as error:
            raise ConfigError(f"Ray cannot be used as hydra.launcher.ray says: {_line(error)}") from error

    def _returned(self, job: Any, config: DictConfig) -> JobReturn:
        from fglight.cells import Cell
        from fglight.rundir import write_json

        try:
            return self.ray.get(job)
        except self.ray.exceptions.RayTaskError as error:  # before training began
            words = _line(error.cause)
        except self.ray.exceptions.RayError as error:
            words = f"lost ({_line(error).split('. ')[0]}): the same command goes on from its last checkpoint"
        folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            failure = {"cell": asdict(Cell.from_config(config)), "seed": config.seed, "error": words}
            write_json(folder / "failure.json", failure)
        returned = JobReturn(overrides=list(config.hydra.overrides.task), status=JobStatus.FAILED)
        returned.return_value = CompactHydraException(words)
        return returned

    def _stop(self, jobs: Sequence[Any]) -> None:
        """Interrupt jobs as Ctrl-C does, and end those that do not end by themselves."""
        for force in (False, True):
            for job in jobs:
                self.ray.cancel(job, force=force)
            _, jobs = self.ray.wait(jobs, num_returns=len(jobs), timeout=10) if jobs else ([], [])


def _run(context: HydraContext, config: DictConfig, function: TaskFunction, singletons: Mapping[Any, Any]) -> JobReturn:
    """One job, in a process of Ray's, perhaps on another machine."""
    import ray

    from fglight.errors import RunBusyError
    from fglight.rundir import claim

    os.chdir(config.hydra.runtime.cwd)
    folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(RunBusyError), claim(folder, patience=10):
        pass  # the process of an attempt before may outlive its machine's Ray by seconds
    if not ray.get_gpu_ids():  # of a job that asked for none Ray hides none
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    setup_globals()
    Singleton.set_state(singletons)
    return run_job(
        hydra_context=context,
        task_function=function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _check_address(address: str) -> None:
    """Look whether anything listens there, which takes Ray a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if host and "://" not in host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise OSError(f"no cluster answers at init.address={address} ({error.strerror or error})") from error


def _line(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
