"""Checks of settings that are numbers of things."""

from collections.abc import Iterable


def check_positive_ints(group: str = "", **settings: object) -> None:
    """Refuse settings of a group, or of none, that are no whole numbers from 1 on.

    Raises:
        ValueError: naming the setting and its value.
    """
    for name, value in settings.items():
        if type(value) is not int or value < 1:
            full = f"{group}.{name}" if group else name
            raise ValueError(f"{full} must be a whole number from 1 on, got {value}")


def check_lists_of_positive_ints(**settings: object) -> None:
    """Refuse settings of ``model`` that are no lists of whole numbers from 1 on.

    Raises:
        ValueError: naming the setting and its value.
    """
    for name, value in settings.items():
        values = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else []
        if not values or any(type(one) is not int or one < 1 for one in values):
            raise ValueError(f"model.{name} must be a list of whole numbers from 1 on, got {value}")
