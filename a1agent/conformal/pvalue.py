"""The conformal p-value, written once: every caller counts, then calls `p_value`."""

__all__ = ["p_value"]


def p_value(above: int, equal: int, size: int, u: float = 1.0) -> float:
    """`(above + u * (equal + 1)) / (size + 1)`: how strange a score is among `size` calibration scores. Small: strange.

    `above` and `equal` count the calibration scores that are larger than the score and equal to it. With u = 1 it is
    conservative: P(p <= x) <= x under exchangeability. With u uniform on (0, 1] it is smoothed: exactly uniform,
    with ties and at size 0 too. Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World (2005), section 2.2.
    """
    return (above + u * (equal + 1)) / (size + 1)
