"""How the paper trained a cell: every setting that the result depends on, by the names that a run's settings have.

What the paper leaves open is settled as ``docs/open.md`` says. The defaults in ``conf/`` are a user's to change, so
nothing is read there: a run with other ones departs from this record.
"""

from typing import Any

from fglight.cell import Cell
from fglight.paper import BATCH_SIZE, MOMENTUM, WEIGHT_DECAY
from fglight.paper.recipes import MODELS, RANDOM_GUESSES, recipe

_CIFAR10 = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
_CIFAR100 = [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]
_IMAGENET32 = [0.4811, 0.4575, 0.4078], [0.2605, 0.2533, 0.2683]
_IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

_DATA = {  # class, training and test images, classes, channels, height and width, crop and flip, mean, deviation
    "cifar10": ("CIFAR10", [50_000, 10_000], 10, 3, 32, True, *_CIFAR10),
    "cifar100": ("CIFAR100", [50_000, 10_000], 100, 3, 32, True, *_CIFAR100),
    "fashion_mnist": ("FashionMNIST", [60_000, 10_000], 10, 1, 28, False, [0.2860], [0.3530]),
    "imagenet32": ("ImageNet32", [1_281_167, 50_000], 1000, 3, 32, True, *_IMAGENET32),
    "imagenette": ("ImagenetteDataModule", [9_469, 3_925], 10, 3, 160, True, *_IMAGENET),
    "digits": ("Digits", [1_437, 360], 10, 1, 8, False, [0.3054], [0.3760]),
}
_TARGETS = {"global": "GlobalTarget", "local": "LocalTarget", "intermediate": "IntermediateTarget"}
_ONE_DRAW = {"directions": 1, "combine": "mean", "rescale": False}
_GUESSES: dict[str, tuple[str, dict[str, Any]]] = {
    "exact": ("ExactGuess", {}),
    "local": ("LocalGuess", {"combine": "sum"}),
    "ntk": ("NTKGuess", {"directions": 1, "combine": "mean"}),
    "fixed_ntk": ("FixedNTKGuess", {"combine": "sum"}),
    "gaussian": ("GaussianGuess", _ONE_DRAW),
    "rademacher": ("RademacherGuess", _ONE_DRAW),
}
_PERTURBATIONS = {
    "activity": ("ActivityPerturbation", "sample"),
    "activity_span": ("ActivitySpanPerturbation", "sample"),
    "weight": ("WeightPerturbation", "tensor"),
}
_AUXILIARIES: dict[str, tuple[str, dict[str, Any]]] = {
    "cnn": ("CNNAuxiliary", {"depth": 3}),
    "mlp": ("MLPAuxiliary", {"depth": 3}),
    "linear": ("LinearAuxiliary", {"pool": 2}),
    "predsim": ("PredSimAuxiliary", {"full_conv": True}),
}
_HIDDEN = {("cnn", 8): 32, ("cnn", 16): 16, ("mlp", 8): 1024, ("mlp", 16): 512}
"""Hidden width of auxiliary networks, by the number of blocks, at width 1."""


def protocol(cell: Cell) -> dict[str, Any]:
    """The settings with which the paper trained a cell, those without effect on the result left out.

    Args:
        cell: a cell of the paper's components, as ``nearest`` gives it. One without auxiliary network or perturbation
            has the settings of ``cnn`` and ``weight``, which nothing uses.

    Returns:
        Values by group and setting, those of no group by their names alone.
    """
    how = recipe(cell)
    random = cell.guess in RANDOM_GUESSES
    source, images, classes, channels, size, augment, mean, std = _DATA[cell.data]
    imagenette = cell.data == "imagenette"
    guess, arguments = _GUESSES[cell.guess]
    perturbation, granularity = _PERTURBATIONS[cell.perturb or "weight"]
    auxiliary, layers = _AUXILIARIES[cell.aux or "cnn"]
    hidden = _HIDDEN.get((cell.aux or "cnn", cell.blocks))
    return {
        "target": {
            "_target_": f"fglight.estimators.{_TARGETS[cell.target]}",
            "name": cell.target,
            "uses_auxiliaries": cell.target != "global",
        },
        "guess": {
            "_target_": f"fglight.estimators.{guess}",
            "name": cell.guess,
            "random": random,
            "uses_auxiliaries": not random and cell.guess != "exact",
            "projects": cell.guess != "exact",
            **arguments,
        },
        "perturb": {
            "_target_": f"fglight.estimators.{perturbation}",
            "name": cell.perturb or "weight",
            "granularity": granularity,
            "coefficient": "inner" if random else "projection",
        },
        "engine": {"_target_": "fglight.estimators.ReverseMode", "name": "reverse"},
        "aux": {
            "_target_": f"fglight.models.{auxiliary}",
            "name": cell.aux or "cnn",
            "hidden": hidden and max(1, int(hidden * cell.width)),
            "trained": True,
            **layers,
        },
        "model": {
            "_target_": "fglight.models.BlockwiseResNet",
            "name": MODELS[cell.blocks],
            "network": cell.network,
            "blocks": cell.blocks,
            "width": cell.width,
            "stem": how.stem,
        },
        "data": {
            "_target_": f"fglight.data.{source if imagenette else 'ImageDataModule'}",
            **({"size": "160px"} if imagenette else {"source": {"_target_": f"fglight.data.sources.{source}"}}),
            "name": cell.data,
            "images": images,
            "num_classes": classes,
            "in_channels": channels,
            "image_size": size,
            "batch_size": BATCH_SIZE,
            "augment": augment,
            "mean": mean,
            "std": std,
            "holdout": 0.0,
        },
        "loss": {
            "_target_": "fglight.models.CrossEntropyLoss",
            "name": "cross_entropy",
            "metrics": {"accuracy": {"_target_": "fglight.training.metrics.Accuracy"}},
        },
        "optim": {
            "_target_": "torch.optim.SGD",
            "name": "sgd",
            "lr": how.lr,
            "momentum": MOMENTUM,
            "dampening": 0,
            "nesterov": False,
            "weight_decay": WEIGHT_DECAY,
        },
        "scheduler": {
            "_target_": "torch.optim.lr_scheduler.StepLR",
            "name": "step",
            "interval": "epoch",
            "step_size": how.lr_step,
            "gamma": how.lr_gamma,
        },
        "trainer": {"max_epochs": how.epochs, "devices": 1, "sync_batchnorm": False, "precision": "32-true"},
        "probe": False,
        "checkpointing": False,
    }
