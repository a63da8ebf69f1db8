"""Compare ratios with the committed figures. Machines differ, but ratios hardly do."""

from typing import Any

TOLERANCE = 0.25
_WATCHED = (("p50_us", "echo/1", 1), ("per_s", "echo/64", -1))


def differences(measured: dict[str, Any], committed: dict[str, Any]) -> list[str]:
    """List what is worse than the committed figures by more than the tolerance."""
    found = []
    for figure, load, sign in _WATCHED:
        now, then = (_ratio(figures, figure, load) for figures in (measured, committed))
        if sign * (now - then) > TOLERANCE * then:
            found.append(
                f"{figure} of sagastream/{load}: {now:.2f} times the naive loop's, "
                f"{then:.2f} in the committed figures (tolerance {TOLERANCE:.0%})"
            )
    for count, then in committed["commands"]["sagastream"].items():
        now = measured["commands"]["sagastream"][count]
        if sum(now.values()) > sum(then.values()) + 0.1:
            found.append(f"commands per request with {count} in flight: {now}, committed {then}")
    return found


def _ratio(measured: dict[str, Any], figure: str, load: str) -> float:
    figures = measured["figures"]
    ours, theirs = (figures[f"{name}/{load}"][figure] for name in ("sagastream", "naive"))
    return float(ours / theirs)
