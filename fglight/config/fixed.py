"""The options of Lightning's Trainer that a run decides on. Needs no pydantic, which takes a while to import."""

from typing import Any

FIXED: dict[str, tuple[Any, str]] = {
    "accumulate_grad_batches": (1, "data.batch_size is how many images a step takes"),
    "barebones": (False, "logger.mode=disabled and trainer.enable_progress_bar=false come near to it"),
    "callbacks": (None, "callbacks=early_stopping, or a file of yours in that group, adds some"),
    "check_val_every_n_epoch": (1, "trainer.limit_val_batches makes the evaluation after an epoch shorter"),
    "default_root_dir": (None, "hydra.run.dir is where a run goes, hydra.sweep.dir where a sweep does"),
    "enable_autolog_hparams": (True, "the complete configuration is logged whenever logger.mode is not disabled"),
    "enable_checkpointing": (True, "checkpoints/last.ckpt is what an interrupted run goes on from"),
    "gradient_clip_algorithm": (None, "clip_norm clips the gradients' total norm"),
    "gradient_clip_val": (None, "clip_norm clips the gradients' total norm"),
    "limit_predict_batches": (None, "trainer.limit_val_batches is for the test set"),
    "limit_test_batches": (None, "trainer.limit_val_batches is for the test set"),
    "logger": (None, "logger.mode chooses whether Weights & Biases is beside the CSV files"),
    "min_epochs": (None, "trainer.max_epochs is how many a run has"),
    "min_steps": (None, "trainer.max_epochs is how long a run is"),
    "model_registry": (None, "checkpoints/last.ckpt in the run directory is the trained network"),
    "num_nodes": (1, "hydra/launcher=ray and submitit_slurm put the runs of a sweep on several machines"),
    "num_sanity_val_steps": (0, "trainer.fast_dev_run=true tries one batch of training and of testing"),
    "overfit_batches": (0, "trainer.limit_train_batches trains on a part of each epoch"),
    "plugins": (None, "trainer.precision and trainer.strategy choose among those that work"),
    "reload_dataloaders_every_n_epochs": (1, "every epoch has an order of its own"),
    "use_distributed_sampler": (False, "data sets share batches out by themselves"),
    "val_check_interval": (1.0, "trainer.limit_val_batches makes the evaluation after an epoch shorter"),
}
"""Options of Lightning's Trainer that a run decides on: how, and what to use instead of another value."""
