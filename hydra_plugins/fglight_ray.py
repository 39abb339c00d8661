"""Hydra's launcher for Ray: jobs side by side on all GPUs or cores, of this machine or of a cluster."""

import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)


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
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        log.info(f"Launching {len(job_overrides)} jobs on Ray")
        task = self._task()
        configs: dict[Any, DictConfig] = {}
        returns: dict[Any, JobReturn] = {}
        try:
            for number, overrides in enumerate(job_overrides, initial_job_idx):
                log.info(f"\t#{number} : {' '.join(filter_overrides(overrides))}")
                config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
                with open_dict(config):
                    config.hydra.job.id = str(number)
                    config.hydra.job.num = number
                named = task.options(name=str(config.hydra.sweep.subdir))
                configs[named.remote(self.context, config, self.function, Singleton.get_state())] = config
            running = list(configs)
            while running:
                (job, *_), running = self.ray.wait(running)
                returns[job] = self._returned(job, configs[job])
        except BaseException:  # Ctrl-C, for instance: no job outlives the sweep
            self._stop([job for job in configs if job not in returns])
            raise
        return [returns[job] for job in configs]

    def _task(self) -> Any:
        """The function of a job for Ray, which is started where it does not run."""
        from fglight.errors import ConfigError

        try:
            if not self.ray.is_initialized():
                self._start()
            # The GPUs that count are the cluster's: this machine may have none.
            gpus = int(self.ray.cluster_resources().get("GPU", 0) > 0)
            OmegaConf.register_new_resolver("gpus", lambda: gpus, replace=True)
            # Not self.options, which Hydra has resolved before.
            remote = OmegaConf.to_container(self.config.hydra.launcher.ray.remote, resolve=True)
            self._look_for_room(remote)
            return self.ray.remote(**remote)(_run)
        except ConfigError:
            raise
        except (OSError, RuntimeError, TypeError, ValueError, self.ray.exceptions.RayError) as error:
            raise ConfigError(f"Ray cannot be used as hydra.launcher.ray says: {_line(error)}") from error

    def _start(self) -> None:
        options = OmegaConf.to_container(self.options.init, resolve=True)
        if address := os.environ.get("RAY_ADDRESS"):  # which Ray prefers
            _check_address("RAY_ADDRESS", address)
        elif address := options.get("address"):
            _check_address("hydra.launcher.ray.init.address", address)
        handler = signal.getsignal(signal.SIGTERM)
        self.ray.init(**options)
        if callable(handler):  # Ray's own prints a stack
            signal.signal(signal.SIGTERM, handler)

    def _look_for_room(self, remote: Mapping[str, Any]) -> None:
        """Say that jobs wait where no machine can take one, of which Ray says nothing."""
        needs = {kind: remote.get(option) or 0 for kind, option in (("GPU", "num_gpus"), ("CPU", "num_cpus"))}
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(all(machine.get(kind, 0) >= need for kind, need in needs.items()) for machine in machines):
            print(
                f"hydra.launcher.ray.remote.num_gpus={needs['GPU']} num_cpus={needs['CPU']} is more than any machine "
                "of Ray's has: the jobs wait until one joins that has as many",
                flush=True,
            )

    def _returned(self, job: Any, config: DictConfig) -> JobReturn:
        from fglight.cell import Cell
        from fglight.runs.folder import FAILURE, write_json

        try:
            return self.ray.get(job)
        except self.ray.exceptions.RayTaskError as error:  # before training began
            words = _line(error.cause)
        except self.ray.exceptions.RayError as error:
            why = _line(error).split(". ")[0]
            words = f"lost ({why}): the same command into the same folder goes on from its last checkpoint"
        folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            failure = {"cell": asdict(Cell.from_config(config)), "seed": config.seed, "error": words}
            write_json(folder / FAILURE, failure)
        returned = JobReturn(overrides=list(config.hydra.overrides.task), status=JobStatus.FAILED)
        returned.return_value = CompactHydraException(words)
        return returned

    def _stop(self, jobs: list[Any]) -> None:
        """Interrupt jobs as Ctrl-C does, and end those that do not end by themselves."""
        for force in (False, True):
            for job in jobs:
                self.ray.cancel(job, force=force)
            _, jobs = self.ray.wait(jobs, num_returns=len(jobs), timeout=10) if jobs else ([], [])


def _run(context: HydraContext, config: DictConfig, function: TaskFunction, singletons: Mapping[Any, Any]) -> JobReturn:
    """One job, in a process of Ray's, perhaps on another machine."""
    import ray

    from fglight.errors import RunBusyError
    from fglight.runs.folder import claim

    setup_globals()
    Singleton.set_state(singletons)
    os.chdir(config.hydra.runtime.cwd)
    folder = Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(RunBusyError), claim(folder, patience=10):
        pass  # the process of an attempt before may outlive its machine's Ray by seconds
    if not ray.get_gpu_ids():  # of a job that asked for none Ray hides none
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return run_job(
        hydra_context=context,
        task_function=function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _check_address(setting: str, address: str) -> None:
    """Look whether anything listens there, for which Ray takes a quarter of an hour.

    Raises:
        ConfigError: nothing does.
    """
    from fglight.errors import ConfigError

    host, _, port = address.rpartition(":")
    if "://" in host or not port.isdecimal():  # Ray sees by itself
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConfigError(
            f"{setting} must be the address of a Ray cluster, auto, or null for this machine, got {address}, where "
            f"none answers ({error.strerror or error})"
        ) from error


def _line(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
