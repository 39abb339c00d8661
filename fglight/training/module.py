"""The Lightning module: manual optimization around a gradient estimator."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import Metric

from fglight.autodiff.batch import Batch
from fglight.diagnostics.counting import count_derivatives
from fglight.diagnostics.profile import forward_mode_forwards, step_costs
from fglight.errors import ConfigError, NonFiniteLossError
from fglight.estimators import FiniteDifferences, ForwardMode, GradientEstimator
from fglight.estimators.measures import measure
from fglight.log_names import (
    COSINE,
    DERIVATIVES,
    EXACT_DERIVATIVES,
    FORWARD_MODE,
    FORWARDS,
    LOCAL_LOSS,
    MEMORY,
    of_block,
    of_split,
)
from fglight.memory_format import as_memory_format
from fglight.models import BlockNetwork
from fglight.training.metrics import Accuracy, BlockMetrics
from fglight.training.setup import SetUp, seed_step


class ForwardGradientModule(L.LightningModule):
    """Trains a blockwise network with estimated gradients.

    Everything random in a step is drawn from torch's default generator, seeded by (seed, step), so that a run resumed
    from a checkpoint draws what an uninterrupted one would have. Several processes draw the same, but for directions
    that every sample has of its own.

    Args:
        model: the network.
        estimator: leaves the gradients.
        optimizer: makes an optimizer of the parameters that get a gradient, such as ``partial(SGD, lr=0.1)``.
        scheduler: makes a scheduler of the optimizer, such as ``partial(StepLR, step_size=30)``; None for a constant
            learning rate.
        interval: when the scheduler moves on, after each ``epoch`` or each ``step``.
        block_lr: the learning rate of blocks 0..J-2, apart from auxiliary networks and the last block; None: the
            optimizer's.
        decay_vectors: whether the optimizer's weight decay is for tensors of one dimension, too, such as biases and the
            scales of normalisation layers.
        warmup: in how many steps the rates rise linearly to what the scheduler says.
        schedule: epochs of the scheduler, and the steps in which they are to pass; None: as they come.
        clip_norm: the largest total norm of the gradients of all trained parameters; longer ones are scaled down to it.
            None: any.
        metrics: of outputs and labels, by the names that they are logged under; None: accuracy.
        seed: of the run.
        cosine: whether to log the cosine similarity of guess and target, every ``log_every_n_steps`` steps.
        measure: whether to log what ``fglight.estimators.measures`` tells of the estimates, as often, and after each
            epoch how many directional derivatives a step takes, and what it costs.
        channels_last: whether images and activations are ``(batch, height, width, channels)`` in memory; the estimator
            is told.
    """

    automatic_optimization = False

    def __init__(
        self,
        model: BlockNetwork,
        estimator: GradientEstimator,
        *,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        interval: Literal["epoch", "step"] = "epoch",
        block_lr: float | None = None,
        decay_vectors: bool = True,
        warmup: int = 0,
        schedule: tuple[int, int] | None = None,
        clip_norm: float | None = None,
        metrics: Mapping[str, Metric] | None = None,
        seed: int = 0,
        cosine: bool = True,
        measure: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        self.estimator = estimator
        self.estimator.channels_last = channels_last
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.interval = interval
        self.block_lr = block_lr
        self.decay_vectors = decay_vectors
        self.warmup = warmup
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.seed = seed
        self.cosine = cosine
        self.measure = measure
        self.counts: dict[str, float] = {}
        metrics = {"accuracy": Accuracy()} if metrics is None else metrics
        self.train_metrics = BlockMetrics(len(model.blocks), metrics)
        self.test_metrics = BlockMetrics(len(model.blocks), metrics)
        self.first_bad_step = torch.tensor(-1)

    def configure_callbacks(self) -> list[L.Callback]:
        """Have what the guess keeps before another callback, such as an average of weights, copies the network."""
        SetUp.put_first(self)
        return []

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer of the parameters that get a gradient, and its scheduler.

        Returns:
            Both, in Lightning's terms.

        Raises:
            ConfigError: for an optimizer that evaluates the loss by itself, and a scheduler that waits for a metric.
        """
        optimizer = self.optimizer(self._parameter_groups())
        if isinstance(optimizer, LBFGS):
            raise ConfigError("optim must take one gradient a step, got LBFGS, which evaluates the loss by itself")
        if self.scheduler is None:
            return {"optimizer": optimizer}
        scheduler = self.scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ConfigError("scheduler must move on by itself, got ReduceLROnPlateau, which waits for a metric")
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _parameter_groups(self) -> list[Any]:
        """The parameters that get a gradient, in groups where some have other settings; those of blocks come last."""
        parameters: list[Any] = self.estimator.trained_parameters(self.model)
        groups: list[dict[str, Any]] = [{"params": parameters}]
        if self.block_lr is not None:
            blocks = {parameter for block in self.model.blocks[:-1] for parameter in block.body.parameters()}
            ours, others = [p for p in parameters if p in blocks], [p for p in parameters if p not in blocks]
            groups = [{"params": others}, {"params": ours, "lr": self.block_lr}]
        if self.decay_vectors:
            return groups if len(groups) > 1 else parameters
        vectors = [
            group | {"params": [p for p in group["params"] if p.dim() < 2], "weight_decay": 0.0} for group in groups
        ]
        others = [group | {"params": [p for p in group["params"] if p.dim() > 1]} for group in groups]
        return [group for pair in zip(vectors, others) for group in pair]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the coefficient does."""
        checkpoint["coefficient"] = self.estimator.coefficient.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give the coefficient what it kept."""
        self.estimator.coefficient.load_state_dict(checkpoint.get("coefficient", {}))

    def on_train_start(self) -> None:
        """Put what is noted on the device there."""
        self.first_bad_step = self.first_bad_step.to(self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Estimate the gradients of one batch and take an optimizer step.

        Args:
            batch: images ``(batch, channels, height, width)`` and labels as the loss takes them.
            batch_idx: its number in the epoch.
        """
        if self.trainer.fit_loop._skip_backward:  # StochasticWeightAveraging's last epoch is for statistics alone
            with torch.no_grad():
                self._evaluate(*batch, self.train_metrics)
            return
        images, labels = batch
        number = self.global_step
        report = (number + 1) % self._every == 0
        own = [self.global_rank] if self.estimator.draws_by_sample and self.global_rank > 0 else []
        if self.measure and not self.counts:
            self._count(images, labels)
        seed_step(self.seed, number, *own)
        optimizer: Any = self.optimizers()
        with self._warmed_up(optimizer), self.taken_at_once(optimizer):
            step = self.estimator.estimate(self.model, images, labels, cosine=self.cosine and report)
        if self.measure and report:
            measured = measure(
                self.model.blocks, images, labels, self.rates[-1], channels_last=self.estimator.channels_last
            )
            for name, values in vars(measured).items():
                self.log_dict({of_block(name, j): value for j, value in enumerate(values)})
        if self.clip_norm is not None:  # every process has the gradients of the whole batch
            clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], self.clip_norm)
        with self._warmed_up(optimizer):
            optimizer.step()
        if self.scheduler is not None:
            self._move_on(epoch_ends=False)

        used = [local for local in step.local if local is not None]
        losses = [local.loss for local in used] + [step.loss]
        self.train_metrics.update(losses, [local.logits for local in used] + [step.logits], labels)
        # Noted on the device and read only now and then, so that no step waits for the host.
        bad = ~torch.stack(losses).isfinite().all() & (self.first_bad_step < 0)
        self.first_bad_step.copy_(torch.where(bad, number, self.first_bad_step))
        if report:
            self._stop_on_bad_loss()
            self.log("loss", step.loss, prog_bar=True, logger=False)
            if step.cosine is not None:
                self.log_dict({of_block(COSINE, j): value for j, value in enumerate(step.cosine)})

    def on_train_epoch_end(self) -> None:
        """Stop on a bad loss, log the epoch's training metrics, and move on in the schedule."""
        self._stop_on_bad_loss()
        self.log("lr", self.rates[0])
        self.log_dict(self.counts)
        self._log_metrics("train", self.train_metrics)
        if self.scheduler is not None:
            self._move_on(epoch_ends=True)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add the losses and metrics of the network, and of the auxiliary networks in use, on one batch.

        Args:
            batch: as for ``training_step``.
            batch_idx: its number.
        """
        self._evaluate(*batch, self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's test metrics."""
        self._log_metrics("test", self.test_metrics)

    def _evaluate(self, images: Tensor, labels: Tensor, metrics: BlockMetrics) -> None:
        whole = Batch.of(images, labels)
        losses, outputs = [], []
        hidden = as_memory_format(images, self.estimator.channels_last)
        for block in self.model.blocks:
            hidden = block.body(hidden)
            if self.estimator.evaluates_auxiliaries or block is self.model.blocks[-1]:
                loss, output = whole.loss(block, hidden)
                losses.append(loss)
                outputs.append(output)
        metrics.update(whole.sum(losses), outputs, labels)

    @property
    def _every(self) -> int:
        """How many steps there are from one report to the next."""
        return self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it

    def _count(self, images: Tensor, labels: Tensor) -> None:
        """Note how many directional derivatives a step takes, and what it costs, which no profiler may see twice."""
        blocks = self.model.blocks
        (batch_size,) = Batch.of(images, labels).sum([torch.tensor(len(images), device=self.device)])
        derivatives = count_derivatives(self.estimator, blocks, images[:2], int(batch_size))
        self.counts = {DERIVATIVES: float(derivatives.taken), EXACT_DERIVATIVES: float(derivatives.exact)}
        if not torch._C._autograd._profiler_enabled():
            costs, estimator = step_costs(self.estimator, blocks, images, labels), self.estimator
            self.counts |= {MEMORY: costs.memory, FORWARDS: costs.forwards}
            forward_mode: float | None = costs.forwards  # of forward mode, or where nothing is projected
            if estimator.guess.projects and not isinstance(estimator.engine, ForwardMode):
                forward_mode = forward_mode_forwards(estimator, blocks, images, labels)
            self.counts |= {} if forward_mode is None else {FORWARD_MODE: forward_mode}

    @contextmanager
    def _warmed_up(self, optimizer: Any) -> Iterator[None]:
        """In the first steps, lower the learning rates for one of them."""
        if not self.warmup:
            yield
            return
        rates = [group["lr"] for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, self.rates):
            group["lr"] = rate
        yield
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate

    @contextmanager
    def taken_at_once(self, optimizer: Any) -> Iterator[None]:
        """Where memory is short, have the optimizer take each gradient as it comes, and let go of it."""
        engine = self.estimator.engine
        if not (isinstance(engine, FiniteDifferences) and engine.redraw) or self.measure or self.clip_norm is not None:
            yield
            return

        def take(parameter: nn.Parameter) -> None:
            optimizer.optimizer.step()
            parameter.grad = None

        parameters = self.estimator.trained_parameters(self.model)
        handles = [parameter.register_post_accumulate_grad_hook(take) for parameter in parameters]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _log_metrics(self, split: str, metrics: BlockMetrics) -> None:
        if not metrics.losses.update_called:
            return  # there was no batch, which is told once the epoch is over
        (*local_losses, loss), (*local_scores, scores) = metrics.compute()
        metrics.reset()
        self.log(of_split(split, "loss"), loss)
        self.log_dict({of_split(split, name): score for name, score in scores.items()}, prog_bar=True)
        if self.estimator.evaluates_auxiliaries:
            for j, (loss, scores) in enumerate(zip(local_losses, local_scores)):
                self.log(of_block(of_split(split, LOCAL_LOSS), j), loss)
                self.log_dict({of_block(of_split(split, f"local_{name}"), j): score for name, score in scores.items()})

    def _stop_on_bad_loss(self) -> None:
        step = int(self.first_bad_step)  # losses are of the whole batch: all processes stop, or none
        if step >= 0:
            raise NonFiniteLossError(
                f"the training loss is no longer finite since step {step} (epoch {self.current_epoch}): "
                f"a smaller optim.lr than {self.rates[0]:g} may help"
            )

    def _move_on(self, *, epoch_ends: bool) -> None:
        """Move on in the schedule after a step, or at the end of an epoch, where it is time."""
        if self.interval == "step" or self.schedule is None:
            times = int(epoch_ends == (self.interval == "epoch"))
        else:
            epochs, steps = self.schedule
            times = 0 if epoch_ends else self.global_step * epochs // steps - (self.global_step - 1) * epochs // steps
        scheduler: Any = self.lr_schedulers()
        for _ in range(times):
            scheduler.step()

    @property
    def rates(self) -> list[float]:
        """The learning rates of the next step: of all parameters, or of blocks 0..J-2 behind that of the others."""
        optimizer: Any = self.optimizers()
        warm = min(1.0, (self.global_step + 1) / (self.warmup or 1))
        return [warm * float(group["lr"]) for group in optimizer.param_groups]
