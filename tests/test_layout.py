"""Tensors lie in memory as their shape says, and convolutions compute what they should in float32 too."""

import lightning as L
import pytest
import torch
from helpers import ALL_PERTURBATIONS, MODELS, build, compose, module_of
from image_files import (
    DEBIAN,
    make,
    write_cifar10,
    write_cifar100,
    write_fashion_mnist,
    write_imagenet32,
    write_imagenette,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fglight import build_estimator, build_model
from fglight.data import Batches
from fglight.estimators import GlobalTarget, GradientEstimator, LocalGuess, WeightPerturbation
from fglight.memory_format import as_memory_format
from fglight.models import Block

SHAPES = [
    (5, 1, 8, 8),
    (5, 3, 1, 1),
    (1, 3, 1, 1),
    (5, 1, 1, 1),
    (1, 1, 4, 4),
    (5, 3, 8, 7),
    (5, 3, 1, 7),
    (5, 1, 2, 1),
]


def fresh(x, channels_last=False):
    """The same numbers in a newly made tensor."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(x.shape, dtype=x.dtype, memory_format=layout).copy_(x)


def layouts(shape):
    """The same images in the layouts that indexing, permuting and other libraries leave."""
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)
    last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return [
        x,
        last,
        fresh(x, True),
        x.flip(0).flip(0),
        x.mT.contiguous().mT,
        x[:, :1][:, 0][:, None] if shape[1] == 1 else x,
    ]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_strides_are_those_of_a_fresh_tensor(shape, channels_last):
    for x in layouts(shape):
        laid = as_memory_format(x, channels_last)
        assert laid.stride() == fresh(x, channels_last).stride()
        assert torch.equal(laid, x)
        assert as_memory_format(laid, channels_last).data_ptr() == laid.data_ptr()


@pytest.mark.parametrize("channels_last", [False, True])
def test_what_has_no_channels_is_laid_out_as_it_is(channels_last):
    for x in (torch.randn(3, 4).T, torch.randn(5, 3, 4).transpose(0, 1), torch.arange(3), torch.tensor(1.0)):
        assert as_memory_format(x, channels_last).stride() == x.clone(memory_format=torch.contiguous_format).stride()
    volume = torch.empty(2, 3, 4, 5, 6, memory_format=torch.channels_last_3d)
    assert as_memory_format(volume.contiguous(), True).stride() == volume.stride()


# Every data set.


def of_fashion_mnist(root):
    write_fashion_mnist(root / "fashion-mnist")
    return make("fashion_mnist", root)


def of_cifar10(root):
    write_cifar10(root)
    return make("cifar10", root)


def of_cifar100(root):
    write_cifar100(root)
    return make("cifar100", root)


def of_imagenet32(root):
    write_imagenet32(root / "imagenet32", root / "imagenet32")
    return make("imagenet32", root)


def of_imagenette(root):
    write_imagenette(root)
    return make("imagenette", root, num_classes=3, image_size=32, num_workers=0)


DATA = {
    "digits": lambda root: make("digits", root),
    "fashion_mnist": of_fashion_mnist,
    "cifar10": of_cifar10,
    "cifar100": of_cifar100,
    "imagenet32": of_imagenet32,
    "imagenette": of_imagenette,
}


@pytest.mark.parametrize("name", DATA)
def test_gradients_of_real_batches_are_those_of_the_same_values_in_fresh_tensors(name, tmp_path, monkeypatch):
    """In float32 and with one thread, where the wrong kernel would crash."""
    monkeypatch.setattr("fglight.data.sources.FashionMNIST.system_folders", ())
    data = DATA[name](tmp_path)
    data.prepare_data()
    torch.manual_seed(0)
    cfg = compose({"model.width": 1 / 16}, data=name, guess="exact")
    cfg.data.num_classes = data.num_classes
    model, estimator = build_model(cfg), build_estimator(cfg)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        images, labels = next(iter(loader))
        assert images.stride() == fresh(images).stride()
        assert torch.equal(images, fresh(images))
        results = []
        for x in (images[:16], fresh(images[:16])):
            estimator.estimate(model, x, labels[:16])
            results.append([p.grad for p in estimator.trained_parameters(model)])
        for given, expected in zip(*results):
            torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_batches_of_debian_s_fashion_mnist(tmp_path):
    images, _ = next(iter(make("fashion_mnist", tmp_path).train_dataloader()))
    assert images.stride() == fresh(images).stride()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("augment", [False, True])
def test_batches_of_a_source_that_lies_otherwise(shuffle, augment):
    images = torch.randint(256, (12, 8, 8), dtype=torch.uint8)
    for source in (images[:, None], images[..., None].expand(-1, -1, -1, 3).contiguous().permute(0, 3, 1, 2)):
        channels = source.shape[1]
        labels = torch.zeros(12, dtype=torch.int64)
        options = {"mean": [0.5] * channels, "std": [1.0] * channels, "shuffle": shuffle, "augment": augment}
        for batch, _ in Batches(source, labels, batch_size=5, **options):
            assert batch.stride() == fresh(batch).stride()


# What the estimator and the Lightning module hand on, whatever a user's data module yields.


@pytest.mark.parametrize("engine", ["reverse", "forward"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (8, 1, 1)])
def test_blocks_get_batches_as_they_should_lie(shape, channels_last, engine, tmp_path):
    images = layouts((6, *shape))[1 if not channels_last else 0]
    seen = []

    class Look(nn.Module):
        def forward(self, x):
            seen.append(x.stride())
            return x

    cfg = compose({"data.in_channels": shape[0], "model.width": 1 / 64, "data.image_size": 8}, engine=engine)
    torch.manual_seed(0)
    model, estimator = build_model(cfg), build_estimator(cfg)
    model.blocks[0].body.insert(0, Look())
    if shape[1] == 1:  # the network shrinks images by 8
        model.blocks[0].body.insert(1, nn.Upsample(scale_factor=8))
    loader = DataLoader(
        TensorDataset(images, torch.arange(6) % 10),
        batch_size=6,
        collate_fn=lambda items: (images, torch.arange(6) % 10),
    )
    module = module_of(model, estimator, channels_last=channels_last)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader, loader)
    assert set(seen) == {fresh(images, channels_last).stride()}
    assert len(seen) > 2  # sanity check, training and evaluation


# Kernels.


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


NARROW, WIDE = (1 / 64, 1 / 32, 1 / 16, 1 / 8), (1 / 4, 1 / 2, 1)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("width", NARROW)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_in_float32_are_those_in_float64_on_narrow_networks(name, width, channels_last):
    check_float32(name, width, channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("width", WIDE)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_in_float32_are_those_in_float64_on_wide_networks(name, width, channels_last):
    check_float32(name, width, channels_last)


def check_float32(name, width, channels_last):
    """A kernel that computes wrong values is off by more than their size."""
    results = []
    for dtype in (torch.float64, torch.float32):
        settings = {"model.width": width, "channels_last": channels_last}
        model, estimator, (images, labels) = build(settings, batch=8, model=name, guess="exact", dtype=torch.float64)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        estimator.estimate(model.to(dtype, memory_format=layout), images.to(dtype), labels)
        results.append([p.grad for p in estimator.trained_parameters(model)])
    largest = max(right.norm() for right in results[0])
    for right, single in zip(*results):
        assert (single - right).norm() <= 0.02 * right.norm() + 1e-4 * largest


def test_a_strided_1x1_convolution_with_channels_last_is_refused_on_cpus():
    body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 8, 1, stride=2), nn.Flatten())
    blocks = [Block(body, nn.Linear(32, 3)), Block(nn.Linear(32, 8), nn.Linear(8, 3))]
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation(), channels_last=True)
    batch = torch.randn(5, 4, 6, 6), torch.arange(5) % 3
    with pytest.raises(ValueError, match=r"channels_last=true .* body\.1 of block 0 on CPUs.*channels_last=false"):
        estimator.estimate(blocks, *batch)
    estimator.channels_last = False
    estimator.estimate(blocks, *batch)


@pytest.mark.parametrize(("perturb", "granularity"), ALL_PERTURBATIONS)
@pytest.mark.parametrize("guess", ["exact", "local", "gaussian"])
def test_gradients_have_the_strides_of_their_parameters(guess, perturb, granularity):
    """Fused optimizers refuse others."""
    model, estimator, (images, labels) = build(
        {"perturb.granularity": granularity}, guess=guess, perturb=perturb, aux="linear", dtype=torch.float32
    )
    estimator.channels_last = True
    estimator.estimate(model.to(memory_format=torch.channels_last), images, labels)
    parameters = estimator.trained_parameters(model)
    assert any(not parameter.is_contiguous() for parameter in parameters)
    assert [parameter.grad.stride() for parameter in parameters] == [parameter.stride() for parameter in parameters]
    torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True).step()
