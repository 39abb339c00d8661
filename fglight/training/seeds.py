"""Checkpoints of seeds and scalars in place of weights, for steps along drawn directions (MeZO, arXiv 2305.17333)."""

from typing import Any, cast

import lightning as L
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig
from torch import Tensor

from fglight.config import devices
from fglight.errors import ConfigError
from fglight.estimators import FiniteDifferences, GradientEstimator
from fglight.models import BlockNetwork
from fglight.models.blocks import trainable
from fglight.training.module import ForwardGradientModule
from fglight.training.setup import seed_step

SAMPLES = 2
"""Of the batch on which steps are taken again: nothing depends on it but running statistics, which are kept."""


def check_seeds(estimator: GradientEstimator, model: BlockNetwork, cfg: DictConfig) -> None:
    """Refuse training whose steps are not told by their seeds and derivatives.

    Raises:
        ConfigError: naming the setting.
    """
    guess, exact = estimator.guess, trainable(model.blocks[-1])
    for setting, possible in (
        ("engine=finite", isinstance(estimator.engine, FiniteDifferences)),
        ("a guess that is drawn", guess.random and not guess.pulled and not guess.keeps),
        ("exact_blocks=0", not exact),
        ("a coefficient that keeps nothing", not estimator.coefficient.state_dict()),
        ("clip_norm=null", cfg.clip_norm is None),
        ("trainer.devices=1", devices(cfg) == 1),
    ):
        if not possible:
            raise ConfigError(f"checkpoint=seeds must go with {setting}: else use checkpoint=full")


class Seeds(L.Callback):
    """Has checkpoints hold what every step found along its directions, and takes these steps again from the start.

    Weights that were moved where they lie come back with rounding errors, which steps that are taken again have not.

    Attributes:
        derivatives: of each step, by its blocks.
        rates: learning rates of each step, by the optimizer's groups.
    """

    def __init__(self) -> None:
        self.derivatives: list[dict[int, Tensor]] = []
        self.rates: list[list[float]] = []

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint holds."""
        return {"derivatives": self.derivatives, "rates": self.rates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over."""
        self.derivatives, self.rates = state_dict["derivatives"], state_dict["rates"]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Have Lightning do without weights."""
        pl_module.strict_loading = False

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave out what comes of the steps."""
        for name, _ in pl_module.named_parameters():
            checkpoint["state_dict"].pop(name, None)
        for optimizer in checkpoint["optimizer_states"]:
            optimizer["state"] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, number: int) -> None:
        """Note the learning rates."""
        assert isinstance(pl_module, ForwardGradientModule)
        self.rates.append(pl_module.rates)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, number: int
    ) -> None:
        """Note the derivatives."""
        assert isinstance(pl_module, ForwardGradientModule)
        engine = pl_module.estimator.engine
        assert isinstance(engine, FiniteDifferences)
        if engine.inspection.draws:
            raise ConfigError("checkpoint=seeds must go with a network that draws nothing: set its dropout to 0")
        self.derivatives.append({index: found.cpu() for index, found in engine.derivatives.items()})

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the steps again that were taken before the checkpoint."""
        assert isinstance(pl_module, ForwardGradientModule)
        if not self.derivatives:
            return
        with isolate_rng():
            images, labels = next(iter(trainer.datamodule.train_dataloader()))  # type: ignore[attr-defined]
        plugin: Any = trainer.precision_plugin
        samples = plugin.convert_input(tuple(given[:SAMPLES].to(pl_module.device) for given in (images, labels)))
        with isolate_rng(), plugin.train_step_context():
            self._take_again(pl_module, *samples)

    def _take_again(self, module: ForwardGradientModule, images: Tensor, labels: Tensor) -> None:
        engine, optimizer = module.estimator.engine, cast(Any, module.optimizers())
        assert isinstance(engine, FiniteDifferences)
        buffers = [(buffer, buffer.clone()) for buffer in module.model.buffers()]
        rates = [group["lr"] for group in optimizer.param_groups]
        for number, (found, at) in enumerate(zip(self.derivatives, self.rates, strict=True)):
            for group, rate in zip(optimizer.param_groups, at):
                group["lr"] = rate
            seed_step(module.seed, number)
            engine.given = {index: derivatives.to(images.device) for index, derivatives in found.items()}
            with module.taken_at_once(optimizer):
                module.estimator.estimate(module.model, images, labels)
            optimizer.optimizer.step()
        engine.given = None
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate
        for buffer, kept in buffers:
            buffer.copy_(kept)
