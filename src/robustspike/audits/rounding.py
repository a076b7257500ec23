"""Numbers as records keep them: short."""

from __future__ import annotations

from torch import Tensor

DIGITS = 5


def rounded(values: Tensor) -> tuple[float, ...]:
    """Numbers [n] to five significant digits, those that are not finite as 0.

    Example:
        >>> from robustspike.audits.rounding import rounded
        >>> rounded(torch.tensor([0.123456789, float("nan")]))
        (0.12346, 0.0)
    """
    finite = values.detach().double().nan_to_num(0.0, 0.0, 0.0)
    return tuple(float(f"{value:.{DIGITS}g}") for value in finite.tolist())
