"""The result of a rank-fit probe in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from htf.probes.result import RankFit

_NOUNS = {"original": "original images"}


def in_words(result: RankFit, fitted: float) -> str:
    """See `RankFit.in_words`."""
    if not result.records:
        raise ValueError("result has no records; expected finished fits")
    if not 0 <= fitted <= 1:
        raise ValueError(f"fitted is {fitted}; expected from 0 to 1")
    bound = fitted * result.mean_variance
    lines = [_of_format(result, form, bound) for form in result.values("format")]
    share = f"{fitted:.0%} of the variance of the targets"
    lines.append(f"Fitted: a train error of at most {share}, {bound:.4f}, there and at all higher ranks.")
    return "\n".join(lines)


def _of_format(result: RankFit, form: str, bound: float) -> str:
    records = result.select(format=form)
    twins = list(dict.fromkeys(r.twin for r in records))
    found = "; ".join(_of_twin(result, form, twin, bound) for twin in twins)
    seeds = len({r.seed for r in records})
    means = f" (means of {seeds} seeds)" if seeds > 1 else ""
    return f"{form.upper()}: {found}{means}."


def _of_twin(result: RankFit, form: str, twin: str, bound: float) -> str:
    ranks = sorted({r.rank for r in result.select(format=form, twin=twin)})
    train, test = (
        [result.mean(part, format=form, twin=twin, rank=rank)[0] for rank in ranks] for part in ("train", "test")
    )
    noun, first = _NOUNS.get(twin, twin.replace("_", " ")), first_fitted(train, bound)
    if first is None:
        best = min(range(len(ranks)), key=train.__getitem__)
        least = f"the least train error is {train[best]:.4f}, at rank {ranks[best]}"
        return f"{noun} are not fitted up to rank {ranks[-1]}, {least}"
    verb = "are fitted from" if twin == "original" else "need"
    on = " on" if twin == "original" else ""
    # Of what was fitted, how much carries over to other images?
    worse = "" if test[first] < result.mean_variance else ", worse than a constant"
    return f"{noun} {verb} rank {ranks[first]}{on}, train error {train[first]:.4f} (test {test[first]:.4f}{worse})"


def first_fitted(train: Sequence[float], bound: float) -> int | None:
    """The first place from which on no error is above the bound."""
    above = [k for k, error in enumerate(train) if error > bound]
    first = above[-1] + 1 if above else 0
    return first if first < len(train) else None
