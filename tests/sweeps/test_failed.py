"""What a sweep tells of jobs that failed."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from fglight.sweeps.failed import Noting


class Jobs:
    """A launcher whose jobs fail where ``errors`` has an error at their number."""

    def __init__(self, folder, errors):
        self.folder, self.errors = folder, errors

    def launch(self, job_overrides, initial_job_idx):
        return [self.job(list(overrides), initial_job_idx + n) for n, overrides in enumerate(job_overrides)]

    def job(self, overrides, number):
        returned = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        returned.return_value = 0.5
        if number in self.errors:
            returned.status, returned.return_value = JobStatus.FAILED, self.errors[number]
            output = {"output_dir": f"{self.folder}/{number}"}
            returned.hydra_cfg = OmegaConf.create({"hydra": {"runtime": output}}) if self.folder else None
        return returned


def test_all_failed_jobs_are_told_with_the_commands_that_repeat_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my multirun, of today"
    (folder / "3").mkdir(parents=True)
    (folder / "3" / "failure.json").touch()
    errors = {1: CompactHydraException("seed 1 is\nnone"), 3: ValueError("unlucky"), 4: OSError("no disk")}
    noting = Noting(Jobs(folder, errors), ["--config-dir=my conf"])
    batches = [[[f"seed={seed}", "model.hidden=[16,16]"] for seed in batch] for batch in ((0, 1), (2, 3, 4))]
    done = [noting.launch(batch, initial_job_idx=start) for batch, start in zip(batches, (0, 2))]
    assert [len(returns) for returns in done] == [1, 1]
    with pytest.raises(CompactHydraException) as told:
        noting.check()
    first, *lines = str(told.value).splitlines()
    assert first == "3 of 5 jobs failed:"
    assert lines[::2] == [
        "- seed 1 is none",
        "- ValueError: unlucky (its traceback is in my multirun, of today/3/failure.json)",
        "- OSError: no disk",
    ]
    assert "OSError: no disk" in capsys.readouterr().err  # of which nothing else has a traceback
    for line, number in zip(lines[1::2], errors):
        command = shlex.split(line)
        assert command[:3] == ["fglight", "train", "--config-dir=my conf"]
        parsed = OverridesParser.create().parse_overrides(command[3:])
        values = {override.key_or_group: override.value() for override in parsed}
        place = Path(str(values.pop("hydra.run.dir")).strip("'"))
        assert values == {"seed": number, "model.hidden": [16, 16]}
        assert place.absolute() == folder / str(number)


def test_a_sweep_of_which_no_job_failed_says_nothing():
    noting = Noting(Jobs(None, {}))
    assert len(noting.launch([["seed=0"]], initial_job_idx=0)) == 1
    noting.check()


def test_a_job_that_was_lost_with_its_machine_is_told_as_well():
    noting = Noting(Jobs(None, {0: CompactHydraException("lost (node died)")}))
    noting.launch([["seed=0"]], initial_job_idx=0)
    with pytest.raises(
        CompactHydraException, match=r"1 of 1 job failed:\n- lost \(node died\)\n  fglight train seed=0$"
    ):
        noting.check()
