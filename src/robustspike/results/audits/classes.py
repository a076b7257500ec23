"""Classes by their names."""

from __future__ import annotations

from collections.abc import Sequence


def class_name(names: Sequence[str], k: int) -> str:
    """The name of class k; "no answer" for −1: logits that are not finite, or no class with a majority of the calls.

    Example:
        >>> class_name(("cat", "dog"), 1), class_name(("cat", "dog"), -1)
        ('dog', 'no answer')
    """
    return names[k] if k >= 0 else "no answer"
