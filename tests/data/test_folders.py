"""Folders of images by class: what is found out, what is read, and what is refused."""

import json
import re
from itertools import product

import numpy as np
import pytest
import torch
import yaml
from forked import train_py
from image_files import make, pixels, same, tensors, write_image_folder
from PIL import Image

from fglight import load_config
from fglight.data import ImageDataModule, folders
from fglight.data.folders import FolderDataModule
from fglight.errors import ConfigError, DataError
from fglight.runs import differences
from fglight.runs.folder import write_config
from fglight.runs.settings import check_unchanged, run_settings


def folder(root, **settings):
    return make("image_folder", root, **{"mean": 0.0, "std": 1.0, "batch_size": 5, "num_workers": 0, **settings})


@pytest.mark.parametrize(("shape", "suffix"), [((1, 8, 8), ".png"), ((3, 12, 12), ".jpg"), ((3, 20, 16), ".PNG")])
def test_classes_channels_and_size_are_found_out(shape, suffix, tmp_path):
    write_image_folder(tmp_path / "my pets", shape, suffix=suffix)
    (tmp_path / "my pets/train/ape/._00.png").write_bytes(b"no image")
    cfg = load_config(["data=image_folder", f"data.root='{tmp_path}/my pets'"])
    found = {"name": "my_pets", "num_classes": 3, "in_channels": shape[0], "image_size": min(shape[1:])}
    assert found.items() <= run_settings(cfg)["data"].items()
    assert {f"data.{name}" for name in found} - {"data.in_channels"} <= differences(cfg).keys()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 12)])
def test_batches_are_the_images_of_the_folder(shape, stream, tmp_path):
    written = write_image_folder(tmp_path, shape)
    module = folder(tmp_path, stream=stream)
    assert isinstance(module, FolderDataModule if stream else ImageDataModule)
    module.prepare_data()
    images, labels = tensors(module.test_dataloader())
    assert images.dtype == torch.float32
    assert np.array_equal(pixels(images).numpy(), written["val"])
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    images, labels = tensors(module.train_dataloader())
    known = {image.tobytes(): index // 8 for index, image in enumerate(written["train"])}
    assert [known[image.numpy().tobytes()] for image in pixels(images)] == labels.tolist()
    assert len(images) == 24
    assert labels.tolist() != sorted(labels.tolist())


@pytest.mark.parametrize("stream", [False, True])
def test_hidden_folders_and_files_are_no_classes_and_no_images(stream, tmp_path):
    root = tmp_path / ".cache" / "pets"  # may itself lie in a hidden folder
    write_image_folder(root, (3, 8, 8))
    for split in ("train", "val"):
        image = (root / split / "ape" / "00.png").read_bytes()
        for name in (
            ".ipynb_checkpoints/00-checkpoint.png",
            "ape/.ipynb_checkpoints/00-checkpoint.png",
            "ape/._00.png",
        ):
            (root / split / name).parent.mkdir(exist_ok=True)
            (root / split / name).write_bytes(image)
        for name in (".DS_Store", "Thumbs.db", "ape/.DS_Store", "ape/Thumbs.db"):
            (root / split / name).touch()
    assert load_config(["data=image_folder", f"data.root={root}"]).data.num_classes == 3
    module = folder(root, stream=stream)
    module.prepare_data()
    assert [len(tensors(loader)[0]) for loader in (module.train_dataloader(), module.test_dataloader())] == [24, 6]


def test_small_sets_lie_in_memory_and_others_are_streamed(tmp_path, monkeypatch):
    write_image_folder(tmp_path, (3, 16, 16))
    for limit, kind in ((30 * 3 * 16 * 16, ImageDataModule), (30 * 3 * 16 * 16 - 1, FolderDataModule)):
        monkeypatch.setattr(folders, "SMALL", limit)
        assert type(folder(tmp_path)) is kind


def test_the_workers_change_no_batch(tmp_path):
    write_image_folder(tmp_path)
    alone, workers = (folder(tmp_path, stream=True, augment=True, num_workers=number) for number in (0, 2))
    assert same(alone.train_dataloader(), workers.train_dataloader())


@pytest.mark.parametrize("stream", [False, True])
def test_images_of_any_size_are_scaled_and_cropped_where_asked(stream, tmp_path):
    written = write_image_folder(tmp_path, (3, 16, 24))
    images, _ = tensors(folder(tmp_path, resize=True, stream=stream).test_dataloader())
    assert np.array_equal(pixels(images).numpy(), written["val"][..., 4:20])
    images, _ = tensors(folder(tmp_path, resize=True, stream=stream, image_size=8).train_dataloader())
    assert images.shape == (24, 3, 8, 8)


def test_grey_images_among_others_are_in_colour(tmp_path):
    write_image_folder(tmp_path)
    Image.new("L", (16, 16), 7).save(tmp_path / "val/bee/00.png")
    images, _ = tensors(folder(tmp_path).test_dataloader())
    assert (pixels(images[2]) == 7).all()


@pytest.mark.parametrize("stream", [False, True])
def test_holdout_takes_the_place_of_val(stream, tmp_path):
    written = write_image_folder(tmp_path)
    module = folder(tmp_path, holdout=0.25, stream=stream)
    (kept, kept_labels), (held, held_labels) = tensors(module.train_dataloader()), tensors(module.test_dataloader())
    assert kept_labels.bincount().tolist() == [6, 6, 6]
    assert held_labels.bincount().tolist() == [2, 2, 2]
    together = {image.numpy().tobytes() for image in pixels(torch.cat([kept, held]))}
    assert together == {image.tobytes() for image in written["train"]}


# Refusals


def refused(module):
    module.prepare_data()
    module.setup("fit")
    tensors(module.train_dataloader())
    tensors(module.test_dataloader())


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


DAMAGE = {
    "is damaged": truncate,
    "is damaged (cannot identify image file": lambda path: path.write_bytes(b"nonsense"),
    "must have 16x16 pixels, as data.image_size says, got 20x17": lambda path: Image.new("RGB", (20, 17)).save(path),
    "must have 8 bits a pixel, got": lambda path: Image.fromarray(np.zeros((16, 16), np.uint16)).save(path),
}


# A worker process ends seconds after its error is forgotten: one is enough.
@pytest.mark.parametrize(("message", "workers"), [*product(DAMAGE, (None, 0)), ("is damaged", 1)])
def test_a_damaged_image_is_named_in_one_line(message, workers, tmp_path):
    write_image_folder(tmp_path)
    path = tmp_path / "val/bee/01.png"
    DAMAGE[message](path)
    with pytest.raises(DataError) as caught:
        refused(folder(tmp_path, stream=workers is not None, num_workers=workers or 0))
    assert str(caught.value).startswith(f"{path} {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stream", [None, False, True])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 4}, "data.num_classes must be 3, the number of class folders in "),
        ({"in_channels": 2}, "data.in_channels must be 1 or 3, got 2"),
        ({"in_channels": 1}, " is in colour: data.in_channels must be 3, for all images, got 1"),
        ({"image_size": 8}, "must have 8x8 pixels, as data.image_size says, got 16x16"),
    ],
)
def test_settings_that_do_not_fit_the_images(settings, message, stream, tmp_path):
    write_image_folder(tmp_path)
    with pytest.raises((ConfigError, DataError), match=re.escape(message)):
        refused(folder(tmp_path, stream=stream, **settings))


@pytest.mark.parametrize("stream", [False, True])
def test_folders_that_are_not_as_they_should_be(stream, tmp_path):
    write_image_folder(tmp_path)
    for name in ("train", "val"):
        (tmp_path / name / "dog").mkdir()
        with pytest.raises(DataError, match=rf"{name} is missing or incomplete \(.*dog"):
            refused(folder(tmp_path, stream=stream, num_classes=4))
        Image.new("RGB", (16, 16)).save(tmp_path / name / "dog/00.png")
        if name == "train":
            with pytest.raises(DataError, match=r"different class folders \(only in train: dog\)"):
                refused(folder(tmp_path, stream=stream))
    (tmp_path / "val").rename(tmp_path / "test")
    with pytest.raises(DataError, match="val is missing or incomplete"):
        refused(folder(tmp_path, stream=stream))


@pytest.mark.parametrize("inside", [[], ["train"], ["train/ape"]])
def test_a_folder_without_images_is_refused_before_anything_else(inside, tmp_path):
    for name in inside:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ConfigError) as caught:
        load_config(["data=image_folder", f"data.root={tmp_path}"])
    assert str(caught.value) == (
        f"data.root must be a folder with train/CLASS/*.png or *.jpg, and val/CLASS/, got {tmp_path}: there are no "
        f"images in {tmp_path}/train"
    )


def test_what_is_given_is_not_looked_for(tmp_path):
    write_image_folder(tmp_path)
    (tmp_path / "train/ape/00.png").write_bytes(b"nonsense")
    overrides = ["data=image_folder", f"data.root={tmp_path}"]
    with pytest.raises(ConfigError, match=r"^.*train/ape/00\.png is damaged"):
        load_config(overrides)
    given = ["data.in_channels=3", "data.image_size=16"]
    assert load_config([*overrides, *given]).data.num_classes == 3
    with pytest.raises(ConfigError, match=r"^data\.stream must be true, false or null .*, got 1$"):
        load_config([*overrides, *given, "data.stream=1"])


# From the command line


def test_a_run_and_a_plan_on_a_folder(tmp_path):
    write_image_folder(tmp_path / "pets", train=16)
    here = tmp_path / "here"
    here.mkdir()
    chosen = ["data=image_folder", "data.root=../pets", "data.batch_size=16", "model.width=0.0625"]
    for _ in range(2):  # the second time it is finished
        quick = ["trainer.max_epochs=1", "logger.mode=disabled", "hydra.run.dir=run"]
        done = train_py(here, *chosen, *quick)
        assert done.returncode == 0, done.stderr
        assert json.loads((here / "run/result.json").read_text())["cell"]["data"] == "pets"
        assert yaml.safe_load((here / "run/config.yaml").read_text())["data"]["num_classes"] == 3
    (tmp_path / "pets").rename(tmp_path / "birds")
    done = train_py(here, *chosen, *quick, "data.root=../birds")
    assert "data.name=pets there, birds now" in done.stderr + done.stdout
    done = train_py(here, "-m", *chosen, "data.root=../birds", "plan=true", "guess=local,exact")
    assert done.returncode == 0, done.stderr
    assert "2 configurations, 2 runs" in done.stdout


def test_another_folder_of_the_same_name_is_another_data_set(tmp_path):
    for parent in ("a", "b"):
        write_image_folder(tmp_path / parent / "pets", (1, 8, 8))
    first, second = (load_config(["data=image_folder", f"data.root={tmp_path}/{parent}/pets"]) for parent in ("a", "b"))
    write_config(run_settings(first), tmp_path)
    check_unchanged(run_settings(first), tmp_path)
    with pytest.raises(ConfigError, match=r"data\.root=.*/a/pets there, .*/b/pets now"):
        check_unchanged(run_settings(second), tmp_path)
