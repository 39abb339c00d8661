"""Train one cell, or with -m a sweep: python train.py guess=gaussian target=global perturb=weight -m"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from fglight.errors import FglightError
from fglight.training import train


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """Run one job and return its test accuracy."""
    try:
        return train(cfg, Path(HydraConfig.get().runtime.output_dir))["test_accuracy"]
    except FglightError as error:
        # Hydra prints an exception of this class as one line, without a traceback.
        raise CompactHydraException(str(error)) from None


if __name__ == "__main__":
    main()
