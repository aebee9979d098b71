"""What intervals and differences are over, and how many comparisons they allow for, in words; knows layouts only."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dat.report.layout import FEWEST_SEEDS, Layout

FEW = {1: "one seed", 2: "two seeds"}


def seeds_words(count: int) -> str:
    """`two seeds`, `3 seeds`."""
    return FEW.get(count, f"{count} seeds")


def no_interval(seeds: int) -> str:
    """Why there is no interval: `two seeds: no interval`."""
    return f"{seeds_words(seeds) if seeds < FEWEST_SEEDS else f'fewer than {FEWEST_SEEDS} common seeds'}: no interval"


def over(layout: Layout) -> str:
    """What the intervals of a layout are over."""
    seeds = seeds_words(len(layout.seeds))
    return {
        "seeds": f"over {seeds}, on the same pictures",
        "both": f"over {seeds} and the pictures together (a mixed model in which both are drawn at random)",
        "pictures": f"over the pictures alone, for the models of {seeds}: other seeds may give another order",
    }[layout.kind]


def paired_by(layout: Layout) -> str:
    """How differences are paired, as a sentence begins."""
    return {
        "seeds": "Paired by seed",
        "both": "Paired by seed and picture",
        "pictures": f"For these models alone ({seeds_words(len(layout.seeds))}), paired by picture",
    }[layout.kind]


def over_each(layouts: Mapping[str, Layout]) -> str:
    """What intervals are over; by test set where that is not the same on all."""
    titles: dict[str, list[str]] = {}
    for title, layout in layouts.items():
        titles.setdefault(over(layout), []).append(title)
    if len(titles) == 1:
        return next(iter(titles))
    return "; ".join(f"{', '.join(named)}: {said}" for said, named in titles.items())


def comparisons(layouts: Collection[Layout], together: int) -> int:
    """How many differences the intervals hold for at once."""
    methods = max(len(layout.methods) for layout in layouts)
    return together * methods * (methods - 1) // 2


def corrected(layouts: Collection[Layout], together: int, *, what: str = "test sets") -> str:
    """For how many comparisons the intervals of differences allow, and how; `what` they are made on, `together` so many."""
    total = comparisons(layouts, together)
    if total == 1:
        return "there is one comparison, so nothing to correct for"
    pairs = total // together
    each = f"all {pairs} pairs of methods (Tukey's range)" if pairs > 1 else "one pair of methods"
    sets = f" on each of {together} {what} (Bonferroni)" if together > 1 else ""
    return f"corrected for {total} comparisons: {each}{sets}"
