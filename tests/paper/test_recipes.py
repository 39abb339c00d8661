"""Every published cell composes with its recipe, and cells that the paper did not run have one, too."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from helpers import GUESSES, PERTURBATIONS, TARGETS, compose
from omegaconf import OmegaConf

import fglight
from fglight import load_config
from fglight.cell import Cell
from fglight.config import check_config
from fglight.paper import unprinted
from fglight.paper.recipes import recipe

with (Path(fglight.__file__).parent / "paper" / "tables.csv").open(newline="") as file:
    ROWS = list(csv.DictReader(file))


def choices_of(row):
    groups = {group: row[group] for group in ("data", "target", "guess", "aux", "perturb") if row[group]}
    return {**groups, "model": f"resnet18_{row['blocks']}"}


def cell_of(row):
    words = {key: row[key] for key in ("data", "target", "guess", "aux", "perturb")}
    return Cell(blocks=int(row["blocks"]), width=float(row["width"]), **words)


def name_of(row):
    return f"table {row['table']}: {cell_of(row)}"


def test_there_are_462_published_cells():
    assert len(ROWS) == 462
    assert len({cell_of(row) for row in ROWS}) == 462
    assert Counter(row["table"] for row in ROWS).keys() == {str(number) for number in range(2, 13)}


def test_every_published_cell_composes_with_its_recipe():
    """All rows at once, so that a failure shows every row that is off."""
    wrong = []
    for row in ROWS:
        cfg = compose({"model.width": float(row["width"])}, **choices_of(row))
        check_config(cfg)
        recipe_of_row = [float(row[key]) for key in ("lr", "lr_step", "lr_gamma", "epochs")]
        composed = [cfg.optim.lr, cfg.scheduler.step_size, cfg.scheduler.gamma, cfg.trainer.max_epochs]
        if composed != recipe_of_row:
            wrong.append(f"{name_of(row)}: {composed} for {recipe_of_row}")
        if Cell.from_config(cfg) != cell_of(row):
            wrong.append(f"{name_of(row)}: comes back as {Cell.from_config(cfg)}")
        if cfg.data.batch_size != 128 or cfg.optim.momentum != 0.9 or cfg.optim.weight_decay != 5e-4:
            wrong.append(f"{name_of(row)}: batch size, momentum or weight decay")
        if (cfg.model.stem == "imagenet") != (row["data"] == "imagenette"):
            wrong.append(f"{name_of(row)}: stem {cfg.model.stem}")
    assert not wrong


def test_cells_that_are_not_printed_have_the_recipes_of_app_a3():
    """Of ImageNet32 there are those for 16 blocks; fixed auxiliary networks have that of fixed NTK guesses."""
    random = {"cifar10": (0.01, 0.005, 30, 0.2, 100), "imagenet32": (0.001, 0.005, 30, 0.1, 70)}
    for row in unprinted():
        if row.table == 3:
            activity, weight, *schedule = random[row.cell.data]
            expected = [activity if row.cell.perturb == "activity" else weight, *schedule]
        else:
            expected = [0.05 if row.cell.blocks == 8 else 0.01, 30, 0.2, 100]
        how = recipe(row.cell)
        assert [how.lr, how.lr_step, how.lr_gamma, how.epochs] == expected, row


@pytest.mark.parametrize("row", ROWS[::33], ids=name_of)
def test_the_shortcut_of_these_tests_composes_what_load_config_does(row):
    overrides = [f"{group}={choice}" for group, choice in choices_of(row).items()]
    cfg = load_config([*overrides, f"model.width={row['width']}"])
    shortcut = compose({"model.width": float(row["width"])}, **choices_of(row))
    assert OmegaConf.to_container(cfg, resolve=True) == OmegaConf.to_container(shortcut, resolve=True)


def test_names_of_published_cells_are_unique_and_good_for_files():
    names = [str(cell_of(row)) for row in ROWS]
    assert len(set(names)) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.") for name in names)


def test_cells_that_the_paper_did_not_run_have_a_recipe_too():
    for data in ("digits", "fashion_mnist", "cifar10", "cifar100", "imagenet32", "imagenette"):
        for target in TARGETS:
            for guess in GUESSES:
                for perturb in PERTURBATIONS:
                    for blocks in (8, 16):
                        chosen = recipe(Cell(data, blocks, 1.0, target, guess, "predsim", perturb))
                        assert 0 < chosen.lr <= 0.1
                        assert chosen.epochs > chosen.lr_step >= 1


def test_any_part_of_the_recipe_can_be_overridden():
    recipe = ["optim.lr=0.3", "scheduler.step_size=2", "scheduler.gamma=0.7", "trainer.max_epochs=4"]
    cfg = load_config([*recipe, "model.stem=imagenet", "data.image_size=32"])
    assert (cfg.optim.lr, cfg.scheduler.step_size, cfg.scheduler.gamma, cfg.trainer.max_epochs) == (0.3, 2, 0.7, 4)
    assert cfg.model.stem == "imagenet"
