"""Forward gradients in Lightning code of your own, on scikit-learn's digits, in half a minute on two cores.

First ``ForwardGradientModule`` in a Trainer and with a DataModule of your own, then ``estimator.estimate`` in the
``training_step`` of a LightningModule of your own.

python examples/own_lightning.py
"""

from functools import partial

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from own_blocks import digits, make_network
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from fglight.estimators import GlobalTarget, GradientEstimator, LocalGuess, WeightPerturbation
from fglight.models import split
from fglight.training.module import ForwardGradientModule


class Digits(L.LightningDataModule):
    """Batches of images ``(64, 1, 8, 8)`` and labels ``(64,)``."""

    def setup(self, stage: str) -> None:
        """Load them."""
        images, labels, test_images, test_labels = digits()
        self.train, self.test = TensorDataset(images, labels), TensorDataset(test_images, test_labels)

    def train_dataloader(self) -> DataLoader:
        """The training images, in another order each epoch."""
        return DataLoader(self.train, batch_size=64, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """The test images."""
        return DataLoader(self.test, batch_size=360)


class Classifier(L.LightningModule):
    """A LightningModule as you may have one, but for three lines of ``training_step``."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.network = make_network()
        self.blocks = split(self.network, [3, 6], torch.randn(2, 1, 8, 8))
        self.estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Estimate in place of ``loss.backward()``."""
        step = self.estimator.estimate(self.blocks, *batch)  # leaves the estimate in .grad
        self.optimizers().step()
        self.log("loss", step.loss)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log accuracy and loss on test images."""
        images, labels = batch
        logits = self.network(images)
        self.log("test/loss", cross_entropy(logits, labels))
        self.log("test/accuracy", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam of what the estimator trains."""
        return torch.optim.Adam(self.estimator.trained_parameters(self.blocks), lr=2e-3)


def modules() -> dict[str, L.LightningModule]:
    """The package's module around a network of your own, and a module of your own around the package's estimator."""
    blocks = split(make_network(), [3, 6], torch.randn(2, 1, 8, 8))
    estimator = GradientEstimator(GlobalTarget(), LocalGuess(), WeightPerturbation())
    module = ForwardGradientModule(
        blocks,
        estimator,
        optimizer=partial(torch.optim.Adam, lr=2e-3),
        scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9),
    )
    return {"ForwardGradientModule": module, "a module of one's own": Classifier()}


def main(epochs: int = 8) -> None:
    """Train both and print one table."""
    torch.manual_seed(0)
    print(f"{'':24}{'epochs':>8}{'test accuracy':>15}")
    for name, module in modules().items():
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[EarlyStopping("test/loss", patience=2)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, Digits())
        accuracy = 100 * float(trainer.callback_metrics["test/accuracy"])
        print(f"{name:24}{trainer.current_epoch:8}{accuracy:13.1f} %", flush=True)


if __name__ == "__main__":
    main()
