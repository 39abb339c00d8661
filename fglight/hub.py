"""Loading what transformers has in folders and on the Hugging Face hub, without a word but an error's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from fglight.errors import ConfigError, one_line

LIBRARIES = ("transformers.utils.logging", "huggingface_hub.utils.logging")
"""What says how much two libraries tell."""


def from_pretrained(setting: str, path: Any, kind: str, **arguments: Any) -> Any:
    """What a class of transformers' loads.

    Args:
        setting: what says from where.
        path: its value: a folder, or a name on the hub, which is downloaded.
        kind: the class, such as ``AutoConfig``.
        **arguments: of its ``from_pretrained``.

    Raises:
        ConfigError: transformers is not installed, or nothing can be loaded.
    """
    try:
        import transformers  # an extra
    except ImportError as error:
        raise ConfigError(f"{setting}={path} needs transformers: pip install 'fglight[transformers]'") from error
    accepted = f"{setting} must be a folder of transformers', or the name of a model that can be downloaded, got {path}"
    if not isinstance(path, str):
        raise ConfigError(accepted)
    with quiet():
        try:
            return getattr(transformers, kind).from_pretrained(os.path.expanduser(path), **arguments)
        except Exception as error:  # of files that may hold anything
            raise ConfigError(f"{accepted} ({kind}: {one_line(error)})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Have transformers tell nothing but errors, and show no progress."""
    libraries = [import_module(name) for name in LIBRARIES]
    said, shown = [library.get_verbosity() for library in libraries], libraries[0].is_progress_bar_enabled()
    for library in libraries:
        library.set_verbosity_error()
    libraries[0].disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, said):
            library.set_verbosity(verbosity)
        if shown:
            libraries[0].enable_progress_bar()
