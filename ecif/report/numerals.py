"""Numbers as people read them: thousands apart, a true minus sign, powers of ten instead of `e-07`."""

from __future__ import annotations

import math

MINUS, TIMES, THIN = "\u2212", "\u00d7", "\u2009"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def integer(n: int) -> str:
    """`1,234,567`."""
    return f"{n:,}".replace("-", MINUS)


def power_of_ten(exponent: int) -> str:
    """`10⁻⁶`."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def number(value: float | None, digits: int = 3) -> str:
    """A score to so many significant digits, with a power of ten where plain digits are many; an en dash for none."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if -4 < power < 6:
        plain = f"{value:,.{max(0, digits - 1 - power)}f}"
        return plain.replace("-", MINUS)
    return f"{mantissa}{THIN}{TIMES}{THIN}{power_of_ten(power)}".replace("-", MINUS)


def percent(part: int, whole: int) -> str:
    """`12.5 %`; a share that would round to 0 or 100 without being it keeps its side."""
    if not whole:
        return "\u2013"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.1f} %".replace(".0 %", " %")


def plural(n: int, what: str) -> str:
    """`1 shard`, `1,200 shards`."""
    return f"{integer(n)} {what}{'' if n == 1 else 's'}"
