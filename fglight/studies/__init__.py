"""Studies: questions beyond the paper's, as lists of estimators that are trained alike and compared.

Each is a file of ``conf/study``, a row an estimator. Sweeps run them, and reports show them; no torch is needed.
"""

from pathlib import Path

from fglight.config.settings import CONFIG_DIR
from fglight.errors import ConfigError
from fglight.studies.study import QUANTITIES, RATES, SEARCH_SEEDS, Row, Study, best_rate, read_study

__all__ = ["QUANTITIES", "RATES", "SEARCH_SEEDS", "STUDIES", "Row", "Study", "add_studies", "best_rate"]

STUDIES: dict[str, Study] = {}
"""All studies that are known, by their names."""


def add_studies(folder: Path) -> None:
    """Get to know the studies of a folder of configurations, such as one that ``--config-dir`` names.

    Raises:
        ConfigError: it is no folder, or a file of its ``study`` is none.
    """
    if not folder.is_dir():
        raise ConfigError(f"--config-dir must be a folder, got {folder}")
    for file in sorted((folder / "study").glob("[!.]*.yaml")):
        STUDIES[file.stem] = read_study(file)


add_studies(CONFIG_DIR)
