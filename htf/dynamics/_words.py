"""Sentences on the result of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from htf.dynamics.studies import ScaleSummary, Study

# Components whose rises have less than this in common, on average, rose one after another.
_APART = 0.5


def in_words(study: Study) -> str:
    """See `Study.in_words`."""
    rows = study.summary()
    planted, steps = study.settings.rank, int(study.history.steps[-1])
    stds = dict.fromkeys(row.init_std for row in rows)
    return "\n".join(_of_start([row for row in rows if row.init_std == std], planted, steps) for std in stds)


def _of_start(rows: list[ScaleSummary], planted: int, steps: int) -> str:
    least, most = min(row.risen[0] for row in rows), max(row.risen[1] for row in rows)
    exact, seeds = min(row.exact for row in rows), rows[0].seeds
    count = f"{least}" if least == most else f"{least} to {most}"
    each = f" at each of {len(rows)} nodes" if len(rows) > 1 else ""
    order = ""
    if most > 1:
        overlap = max(row.overlap for row in rows)
        order = ", one after another" if overlap < _APART else ", together"
        order += f" (overlap {overlap:.2f})"
    noun = "component" if count == "1" else "components"
    was = "was" if planted == 1 else "were"
    found = f"{count} {noun}{each} rose within {steps:,} steps{order}, where {planted} {was} planted"
    if exact:
        rest = max(row.rest for row in rows)
        found += f"; in {exact} of {seeds} seeds exactly as many, all others below {rest:.0e} of the largest"
    return f"From starts of {rows[0].init_std:g}: {found}. Mean test error {rows[0].test_error[0]:.1e}."
