"""Configurations of many runs, composed once for each choice, are those that Hydra composes."""

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from planned import hydra_config, plan, request

from fglight.config import check_config
from fglight.config.settings import CONFIG_DIR
from fglight.errors import ConfigError
from fglight.runs.settings import run_settings
from fglight.sweeps.composing import Composer
from fglight.sweeps.runner import Sweep


def test_a_configuration_of_known_choices_is_the_one_that_hydra_composes():
    calls = []
    composer = Composer(lambda overrides: calls.append(overrides) or hydra_config(overrides))
    asked = [job.overrides for job in plan("table=all", "seeds=1", "data.root=images,'my images'")[::110]]
    asked += [["guess=ntk", "guess.directions=3", "+aux.pool=1"], ["data=digits", "optim={lr: 1, momentum: 0}"]]
    asked += [["seed=3"], [], ["model.width=0.5", "trainer.max_steps=5", "~guess.combine", "guess=gaussian"]]
    for overrides in asked:
        assert run_settings(composer(overrides)) == run_settings(hydra_config(overrides)), overrides
    known = len(calls)
    assert known < len(asked)
    for overrides in asked:
        composer(overrides)
    assert len(calls) == known + 3  # what adds, removes, or sets in place of a choice is left to Hydra


@pytest.mark.parametrize(
    "content", ["# @package _global_\nguess: {name: own}\nseed: 7", "name: own\nof: ${hydra.job.name}"]
)
def test_hydra_composes_what_a_choice_changes_elsewhere(content, tmp_path):
    (tmp_path / "guess").mkdir()
    (tmp_path / "guess" / "own.yaml").write_text(content)
    search = f"hydra.searchpath=[{tmp_path}]"
    composer = Composer(lambda overrides: hydra_config([search, *overrides]))
    for overrides in (["guess=own", "seed=3"], ["guess=own"], ["guess=local", "target=local"]):
        ours, hydras = composer(overrides), hydra_config([search, *overrides])
        for group in ("seed", "guess", "target"):
            assert ours[group] == hydras[group]


def test_what_hydra_says_of_a_run_is_not_what_it_says_of_the_sweep(monkeypatch):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", hydra_config(["hydra.job.name=sweep"]))
    cfg = Composer(hydra_config)(["guess=local", "logger.project=${hydra:job.name}"])
    assert OmegaConf.to_container(cfg.logger)["project"] == "${hydra:job.name}"


OWN = {
    "data/cifar10.yaml": ("augment: true", "augment: false", "data.augment=false"),
    "optim/sgd.yaml": ("${recipe:lr}", "0.3", "optim.lr=0.3"),
    "aux/cnn.yaml": ("depth: 3", "depth: 1", "aux.depth=1"),
    "guess/local.yaml": ("combine: sum", "combine: max", "guess.combine=max"),
    "model/resnet18_8.yaml": ("blocks: 8", "blocks: 16", "model.blocks=16"),
    "trainer/default.yaml": ("${recipe:epochs}", "7", "trainer.max_epochs=7"),
    "config.yaml": ("optim: sgd", "optim: adam", "optim=adam"),
}
"""Files that users may have in a folder of their own, by what they change in those that ship, and how runs tell it."""


@pytest.mark.parametrize("file", OWN)
def test_a_table_with_defaults_of_ones_own_tells_that_it_departs(file, tmp_path, capsys):
    shipped, own, told = OWN[file]
    path = tmp_path / "my_conf" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((CONFIG_DIR / file).read_text().replace(shipped, own))
    search = create_config_search_path(str(CONFIG_DIR))
    search.prepend("command-line", f"file://{tmp_path / 'my_conf'}")  # as --config-dir does
    composer = Composer(lambda texts: ConfigLoaderImpl(search).load_configuration("config", texts, RunMode.MULTIRUN))
    cell = ("data=cifar10", "guess=local", "aux=cnn", "perturb=weight")
    asked = request("table=3", *cell, "model.width=0.0625", "seeds=1")
    sweep = Sweep(asked, tmp_path / "runs", composer, launch=lambda *_: [], serial=True, here=False)
    (job,) = sweep.jobs
    assert job.name == f"cifar10-8bw0.0625-global-local-cnn-weight_{told}"
    sweep.run()
    assert f"Defaults that are not as in the paper: {told}\n" in capsys.readouterr().out


def test_an_interpolation_that_leads_nowhere_is_left_to_the_check():
    cfg = Composer(hydra_config)(["guess=local", "optim.lr=${nothing}"])
    with pytest.raises(ConfigError, match=r"optim.lr has no value: Interpolation key 'nothing' not found"):
        check_config(cfg)
