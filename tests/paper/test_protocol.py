"""What the paper did is a record of its own: shipped defaults agree with it, and changed ones are told to depart."""

import shutil
from copy import deepcopy

import pytest
from helpers import compose
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import ListConfig, OmegaConf
from written_runs import ROWS
from written_runs import cell as of_words

from fglight.cell import FACTS, Cell
from fglight.config.settings import CONFIG_DIR, NO_RUN_HAS, choices, root_file
from fglight.models import CNNAuxiliary, MLPAuxiliary
from fglight.paper.protocol import protocol
from fglight.paper.recipes import MODELS
from fglight.runs import differences
from fglight.runs.settings import flat, has_effect

DIGITS = of_words("digits 8 1 global local cnn weight")
CELL = of_words("cifar10 8 1 global local cnn weight")
NAMING = (
    "model.network",
    "model.blocks",
    "model.width",
    *(f"{g}.name" for g in ("data", "target", "guess", "aux", "perturb")),
)
"""Settings that say which cell it is: another value makes another cell."""


def chosen(cell):
    """The choices of a cell; those of the others are the defaults."""
    parts = {group: getattr(cell, group) for group in ("data", "target", "guess", "aux", "perturb")}
    return {group: choice for group, choice in {**parts, "model": MODELS[cell.blocks]}.items() if choice}


USED = {(group, choice): cell for cell in (*ROWS, DIGITS) for group, choice in chosen(cell).items()}
USED |= dict.fromkeys([("engine", "reverse"), ("loss", "cross_entropy"), ("optim", "sgd")], CELL)
USED |= dict.fromkeys([("scheduler", "step"), ("trainer", "default")], CELL)
"""The files that cells of the paper are made of, and a cell of each."""


def other(value):
    """Another value of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, list | ListConfig):
        return [*value, 1]
    return f"{value}x" if isinstance(value, str) else 2 * value + 1


def settings_of(group, choice):
    return [f"{group}.{name}" for name in flat(choices(group)[choice])]


@pytest.mark.parametrize(("group", "choice"), [pytest.param(*used, id="=".join(used)) for used in USED])
def test_every_setting_of_every_file_counts_where_it_is_changed(group, choice):
    cell = USED[group, choice]
    shipped = compose({"model.width": cell.width}, **chosen(cell))
    assert differences(shipped) == {}
    for name in flat(choices(group)[choice]):
        cfg, setting = deepcopy(shipped), f"{group}.{name}"
        OmegaConf.update(cfg, setting, other(OmegaConf.select(cfg, setting)))
        found = differences(cfg).keys()
        if setting in NAMING:
            assert Cell.from_config(cfg) != cell
            assert setting in {*found, "model.width"}
        elif name in FACTS.get(group, ()):  # most of them say which components a cell has
            assert setting in found
        else:
            assert found == ({setting} if has_effect(setting) else set()), setting


@pytest.mark.parametrize("setting", [name for name in root_file() if name not in ("defaults", "hydra", *NO_RUN_HAS)])
def test_every_setting_of_the_root_counts_where_it_is_changed(setting):
    cfg = compose(data="cifar10")
    cfg[setting] = other(cfg[setting])
    told = {"seed": set(), "probe": set(), "checkpointing": {"checkpointing"}}  # a probe trains what nothing uses
    assert differences(cfg).keys() == told.get(setting, {setting} if has_effect(setting) else set())


def test_defaults_edited_in_their_files_are_told_one_by_one(tmp_path):
    conf = shutil.copytree(CONFIG_DIR, tmp_path / "conf")
    expected = {"clip_norm"}
    (conf / "config.yaml").write_text((conf / "config.yaml").read_text().replace("clip_norm: null", "clip_norm: 1.0"))
    for group, choice in (*chosen(CELL).items(), *(used for used, cell in USED.items() if cell is CELL)):
        settings = OmegaConf.load(conf / group / f"{choice}.yaml")
        for name, value in flat(choices(group)[choice]).items():
            setting = f"{group}.{name}"
            if has_effect(setting) and setting not in NAMING and name not in FACTS.get(group, ()):
                OmegaConf.update(settings, name, other(value))
                expected.add(setting)
        OmegaConf.save(settings, conf / group / f"{choice}.yaml")
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = hydra_compose("config", [f"{group}={choice}" for group, choice in chosen(CELL).items()])
    assert differences(cfg).keys() == expected


@pytest.mark.parametrize("width", [1.0, 0.5, 1 / 64])
@pytest.mark.parametrize("blocks", MODELS)
def test_auxiliary_networks_are_as_wide_as_the_record_says(blocks, width):
    for auxiliary, name in ((CNNAuxiliary, "cnn"), (MLPAuxiliary, "mlp")):
        record = protocol(of_words(f"cifar10 {blocks} {width} local exact {name} -"))["aux"]
        built = auxiliary(8, 10, blocks=blocks, width=width)
        said = auxiliary(8, 10, hidden=record["hidden"], depth=record["depth"])
        assert [p.shape for p in built.parameters()] == [p.shape for p in said.parameters()]
