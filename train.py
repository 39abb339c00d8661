"""Train one cell, or with -m a sweep: python train.py -m table=3, python train.py -m guess=gaussian,local"""

import os
import sys
import warnings
from pathlib import Path

from fglight import processes

if __name__ == "__main__":
    processes.begin()  # before the imports that take a while

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from fglight.config import devices
from fglight.config.settings import check_overrides
from fglight.errors import ConfigError, FglightError, RunBusyError

# Files in conf/hydra/launcher/ complete a plugin's schema of the same name, which Hydra 1.3 does and 1.4 will not.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run one job and return its test accuracy; None where another process is running it."""
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if sweep and devices(cfg) > 1:
            raise ConfigError(
                f"trainer.devices={cfg.trainer.devices} cannot go with -m, since each of its processes would start the "
                "sweep anew: accepted is 1 (hydra/launcher=ray puts one run on each GPU)"
            )
        if sweep:
            os.environ.pop("WANDB_RUN_ID", None)  # one id cannot be that of all runs
        from fglight.training.run import train  # loads torch, which help and errors do without

        return train(cfg, Path(HydraConfig.get().runtime.output_dir))["test_accuracy"]
    except FglightError as error:
        if sweep and isinstance(error, RunBusyError):
            print(error)
            return None
        # Hydra prints an exception of this class as one line, without a traceback.
        raise CompactHydraException(str(error)) from None


if __name__ == "__main__":
    with processes.terminable():
        try:
            check_overrides(get_args_parser().parse_args().overrides)
        except FglightError as error:
            sys.exit(str(error))
        main()
