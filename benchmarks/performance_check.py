"""Whether ratios are still what the committed figures say; machines differ, ratios hardly."""

from typing import Any

TOLERANCE = 0.25
_WATCHED = (("p50_us", "echo/1", 1), ("per_s", "echo/64", -1))


def differences(told: dict[str, Any], committed: dict[str, Any]) -> list[str]:
    """What has become worse than the committed figures by more than the tolerance."""
    found = []
    for figure, load, sign in _WATCHED:
        now, then = (_ratio(figures, figure, load) for figures in (told, committed))
        if sign * (now - then) > TOLERANCE * then:
            found.append(
                f"{figure} of sagastream/{load}: {now:.2f} times the naive loop's, "
                f"{then:.2f} in the committed figures (tolerance {TOLERANCE:.0%})"
            )
    for count, then in committed["commands"]["sagastream"].items():
        now = told["commands"]["sagastream"][count]
        if sum(now.values()) > sum(then.values()) + 0.1:
            found.append(f"commands a request with {count} in flight: {now}, committed {then}")
    return found


def _ratio(told: dict[str, Any], figure: str, load: str) -> float:
    figures = told["figures"]
    ours, theirs = (figures[f"{name}/{load}"][figure] for name in ("sagastream", "naive"))
    return float(ours / theirs)
