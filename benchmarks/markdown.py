"""How rows and figures of tables are written."""

from typing import Any


def header(*columns: str) -> str:
    return "\n".join([cells(*columns), "|" + "---|" * len(columns)])


def cells(*texts: str) -> str:
    return "| " + " | ".join(texts) + " |"


def shown(m: dict[str, Any], *figures: str) -> str:
    return ", ".join(WRITTEN.get(figure, share)(m[figure]) for figure in figures)


def at_step(m: dict[str, Any], *figures: str) -> str:
    """The step, where there is one, and figures there."""
    found = shown(m, *(figures or ("memorized_fraction", "fd_heldout", "recall")))
    return f"{shown(m, 'steps')}: {found}" if m["steps"] else found


def several(steps: int | list[int]) -> str:
    """The steps of all seeds or of each, those that are equal once, of many the ends; none where nothing is trained."""
    found = [f"{s:,}" if s else "none" for s in sorted(set(steps if isinstance(steps, list) else [steps]))]
    return " and ".join(found) if len(found) < 3 else f"{found[0]} to {found[-1]}"


def share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else f"{value:.2f}"


def distance(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


WRITTEN = {"fd_heldout": distance, "steps": several}
