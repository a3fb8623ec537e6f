"""Result of a curriculum: the results of its stages, as one history."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from htf._files import read_json, write_json
from htf._repr import brief
from htf.training.classify_result import ClassifyResult

_KIND = "the result of a curriculum"


@dataclass(frozen=True)
class CurriculumResult:
    """The record of `curriculum`.

    Attributes
    ----------
    names : tuple of str
        Of the stages.
    stages : tuple of ClassifyResult

    See Also
    --------
    htf.training.curriculum : returns it.
    htf.training.ClassifyResult : the result of a stage.

    Examples
    --------
    >>> import torch, htf
    >>> x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    >>> easy, hard = (x[:, 0] > 0).long(), (x[:, 0] + x[:, 1] > 0).long()
    >>> settings = htf.training.ClassifySettings(epochs=3)
    >>> first = htf.training.Stage([(x, easy)], settings=settings, name="easy")
    >>> second = htf.training.Stage([(x, hard)], settings=settings, name="hard")
    >>> result = htf.training.curriculum(torch.nn.Linear(5, 1), [first, second])
    >>> result.names, result.epochs, [row["name"] for row in result.rows()]
    (('easy', 'hard'), 6, ['easy', 'easy', 'easy', 'hard', 'hard', 'hard'])
    """

    names: tuple[str, ...]
    stages: tuple[ClassifyResult, ...]

    __repr__ = brief

    @property
    def epochs(self) -> int:
        """Epochs of all stages."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Time of training of all stages, evaluations included."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def test(self) -> float | None:
        """Test accuracy of the model that the last stage left; None without test samples."""
        return self.stages[-1].test_best_validation

    def rows(self) -> list[dict[str, Any]]:
        """One history of all stages: a row an epoch, with epochs and seconds counted from the first stage on."""
        rows: list[dict[str, Any]] = []
        before = 0.0
        for number, (name, stage) in enumerate(zip(self.names, self.stages, strict=True), 1):
            for epoch in stage.history:
                found = asdict(epoch)
                rows.append({"stage": number, "name": name, "epoch": len(rows) + 1, **found})
                rows[-1]["seconds"] = before + epoch.seconds
            before += stage.seconds
        return rows

    def save(self, path: str | Path) -> None:
        """Write JSON with a checksum, beside, then rename."""
        stages = [{"name": name, **asdict(stage)} for name, stage in zip(self.names, self.stages, strict=True)]
        write_json(Path(path), {"stages": stages}, _KIND)

    @classmethod
    def load(cls, path: str | Path) -> CurriculumResult:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file is missing, damaged or something else.
        """
        content = read_json(Path(path), _KIND)
        try:
            stages = content["stages"]
            if not isinstance(stages, list) or not stages or set(content) != {"stages"}:
                raise TypeError("it has no list of stages")
            names = tuple(str(stage.pop("name")) for stage in stages)
            return cls(names, tuple(ClassifyResult.from_content(stage) for stage in stages))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} does not describe a curriculum ({error})") from error
