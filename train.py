"""Train one cell, or with -m a sweep: python train.py -m table=3, python train.py -m guess=gaussian,local"""

import sys
import warnings
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from fglight.config import check_choices, devices
from fglight.errors import ConfigError, FglightError, RunBusyError
from fglight.rundir import SWEEP_SETTINGS
from fglight.training import train

# Files in conf/hydra/launcher/ complete a plugin's schema of the same name, which Hydra 1.3 does and 1.4 will not.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run one job and return its test accuracy; None where another process is running it."""
    try:
        for setting in SWEEP_SETTINGS:
            if cfg[setting]:
                raise ConfigError(f"{setting}={cfg[setting]} belongs to a sweep of the paper's cells: add -m table=...")
        if HydraConfig.get().mode == RunMode.MULTIRUN and devices(cfg) > 1:
            raise ConfigError(
                f"trainer.devices={cfg.trainer.devices} cannot go with -m, since each of its processes would start the "
                "sweep anew: accepted is 1 (hydra/launcher=ray puts one run on each GPU)"
            )
        return train(cfg, Path(HydraConfig.get().runtime.output_dir))["test_accuracy"]
    except RunBusyError as busy:
        print(busy)
        return None
    except FglightError as error:
        # Hydra prints an exception of this class as one line, without a traceback.
        raise CompactHydraException(str(error)) from None


if __name__ == "__main__":
    try:
        check_choices(sys.argv[1:])
    except FglightError as error:
        sys.exit(str(error))
    main()
