"""Errors that a user can act on: each is one sentence that names the setting, its value and what is accepted."""


def one_line(error: object) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split())


class FglightError(Exception):
    """Base of every error that fglight raises for the user rather than for the programmer."""


class ConfigError(FglightError, ValueError):
    """A setting, or a combination of settings, that means nothing."""


class BlockError(FglightError, ValueError):
    """A network that an estimator, as it is set, would be wrong on."""


class LabelError(FglightError, ValueError):
    """Labels that a loss or a metric has no meaning for, with the outputs that they came with."""


class DataError(FglightError, RuntimeError):
    """Files of a data set that are missing, damaged or at odds with the configuration."""


class NonFiniteLossError(FglightError, ArithmeticError):
    """A training loss that became NaN or infinite."""


class ProcessError(FglightError):
    """A failure of another process that works on the same run."""


class RunBusyError(FglightError):
    """A run's directory that another process is writing."""


class LauncherError(FglightError):
    """A launcher that gave up; its jobs may go on."""
