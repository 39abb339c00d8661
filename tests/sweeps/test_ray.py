"""Sweeps on Ray: which GPU a job gets, and what becomes of the runs of workers and machines that die."""

import csv
import json
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from forked import PROCESSES, ROOT, SMALL, ended, finish, results, start_train_py, written
from holding import PATH, held
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import CompactHydraException

from fglight.config.settings import CONFIG_DIR

pytest.importorskip("ray", reason="needs the sweep extra")
pytestmark = pytest.mark.slow

RUNS = ("-m", "table=4", "guess=exact", "blocks=8", "seeds=1", *SMALL, "trainer.max_epochs=4", *held(epoch=2))
ON_RAY = ("hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2")


def epochs(run: Path) -> list[set[int]]:
    """The epochs logged each time that a run was started."""
    logs = [csv.DictReader(path.read_text().splitlines()) for path in sorted(run.rglob("metrics.csv"))]
    return [{int(row["epoch"]) for row in log if row["epoch"]} for log in logs]


def held_run(sweep: BaseProcess, folder: Path) -> tuple[Path, int]:
    """A run of a sweep that waits after its second epoch, and the process that holds its lock.

    Any of them: Ray starts jobs in an order of its own, and those that wait keep the cores.
    """
    while sweep.is_alive():
        locks = {
            run / ".lock": run
            for run in folder.glob("multirun/cells/*/seed0")
            if any(max(log, default=0) for log in epochs(run))
        }
        for descriptor in Path("/proc").glob("[0-9]*/fd/*") if locks else ():
            with suppress(OSError):  # another user's, or gone
                if run := locks.get(descriptor.readlink()):
                    return run, int(descriptor.parts[2])
        time.sleep(0.1)
    raise AssertionError(written(folder))


def test_a_run_whose_worker_died_is_lost_alone(tmp_path):
    sweep = start_train_py(
        tmp_path, *RUNS, "aux=cnn,linear", *ON_RAY, "hydra.launcher.ray.remote.max_retries=0", PYTHONPATH=PATH
    )
    try:
        run, process = held_run(sweep, tmp_path)
        os.kill(process, signal.SIGKILL)
        (tmp_path / "go").touch()
        lost = ended(sweep, tmp_path)
    finally:
        sweep.kill()
    assert lost.returncode == 1
    words = (
        "lost (WorkerCrashedError: The worker died unexpectedly while executing this task): "
        "the same command into the same folder goes on from its last checkpoint"
    )
    (line,) = (line for line in lost.stdout.splitlines() if line.startswith("[") and words in line)
    assert "1 failed, 1 running, 0 left" in line or "1 of 2 done, 1 failed, 0 running, 0 left" in line
    assert "1 of 2 runs finished, 1 failed\n" in lost.stdout
    assert "1 of 2 runs failed" in lost.stderr
    assert "Traceback" not in lost.stderr
    assert json.loads((run / "failure.json").read_text())["error"] == words


@pytest.fixture
def cluster(monkeypatch):
    """A head that runs no jobs, and two nodes with a core each, all on this machine."""
    from ray.cluster_utils import Cluster

    home = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets have short names; other tests do not find this cluster
    monkeypatch.setenv("RAY_TMPDIR", home)
    monkeypatch.setenv("PYTHONPATH", PATH)
    handler = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()
        signal.signal(signal.SIGTERM, handler)  # of this process, too, Ray has put its own there
        shutil.rmtree(home)


def test_a_node_that_dies_loses_no_run(tmp_path, cluster):
    address = f"hydra.launcher.ray.init.address={cluster.address}"
    sweep = start_train_py(tmp_path, *RUNS, "aux=cnn,linear,mlp", "hydra/launcher=ray", address, PYTHONPATH=PATH)
    try:
        run, process = held_run(sweep, tmp_path)
        parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        nodes = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
        cluster.remove_node(nodes[parent], allow_graceful=False)
        (tmp_path / "go").touch()
        done = ended(sweep, tmp_path)
    finally:
        sweep.kill()
    assert done.returncode == 0, done.stderr
    assert "3 of 3 runs finished, 0 failed\n" in done.stdout
    assert len(results(tmp_path)) == 3
    first, second = epochs(run)
    assert min(first) == 0 < min(second)


def test_jobs_get_gpus_of_their_own_or_shares_of_them(tmp_path):
    process = PROCESSES.Process(target=_share_gpus, args=(tmp_path,))
    process.start()
    finish(process)
    assert process.exitcode == 0


def _share_gpus(folder: Path) -> None:
    """Pretend that this machine has two GPUs."""

    def visible(cfg, folder, jobs):
        (folder / str(cfg.seed)).touch()
        while len(list(folder.iterdir())) < jobs:  # all run at once
            time.sleep(0.1)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    def sweep(name, jobs, *overrides):
        (folder / name).mkdir()
        seeds = f"seed={','.join(map(str, range(jobs)))}"
        task = partial(visible, folder=folder / name, jobs=jobs)
        settings = [seeds, "hydra/launcher=ray", *overrides]
        (returns,) = GlobalHydra.instance().hydra.multirun("config", task, settings)
        return sorted(job.return_value for job in returns)

    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(ROOT)  # for Ray's processes, which know no script
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        with pytest.raises(
            CompactHydraException, match=r"init.address must be the address of a Ray cluster.*got 127.0.0.1:1"
        ):
            sweep("nowhere", 1, "hydra.launcher.ray.init.address=127.0.0.1:1")
        pretended = ("hydra.launcher.ray.init.num_gpus=2", "hydra.launcher.ray.init.num_cpus=4")
        assert sweep("whole", 2, *pretended) == ["0", "1"]
        assert sweep("half", 4, "hydra.launcher.ray.remote.num_gpus=0.5") == ["0", "0", "1", "1"]
        assert sweep("none", 1, "hydra.launcher.ray.remote.num_gpus=0") == [""]
