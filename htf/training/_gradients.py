"""Losses of a batch and their gradients, with a regularizer, over several processes, or replayed as CUDA graphs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from htf.nn import Factorization
from htf.training._memory import keep_freed_memory
from htf.training._seeds import random_of_step
from htf.training.graphs import LEAST_REPLAYS, Replays
from htf.training.objectives.base import Found

if TYPE_CHECKING:
    from htf.training.run import Training


class Gradients:
    """Differentiation of a training's present batch.

    Parameters
    ----------
    training : Training
    call : callable
        The model as it is to be called, wrapped by a Fabric where there is one.
    optimizer : Optimizer or wrapper of one
        For setting gradients to None.
    """

    def __init__(self, training: Training, call: Any, optimizer: Any) -> None:
        self.training, self._call, self._stepping = training, call, optimizer
        # In a model that is to be trained, modules in evaluation mode, as frozen batch normalization is, stay so.
        self._kept_evaluated = [m for m in training.bare.modules() if not m.training] * training.model.training
        # Factorizations have neither modes nor dropout.
        factorization = isinstance(training.model, Factorization)
        self._plain = factorization and training.regularizer is None and training.processes.world == 1
        self._shape = torch.Size([training.runs])
        self._replays: Replays | None = None

    def begin(self) -> None:
        """Forget graphs of memory that a checkpoint may have replaced."""
        training = self.training
        if self._plain and training.device.type == "cpu":
            keep_freed_memory()
        long = training.steps - training.step >= LEAST_REPLAYS * training.objective.batches
        worth = self._plain and training.device.type == "cuda" and long
        self._replays = Replays(training.trained, training.optimizer) if worth else None

    def find(self) -> tuple[Found, Tensor | None]:
        """The losses on the present batch and what the regularizer adds, with gradients left at the parameters."""
        training, said = self.training, ""
        try:
            if self._plain:
                return self._of_factorization(*divmod(training.step, training.objective.batches)), None
            found, penalty = self._in_training_mode()
        except torch.OutOfMemoryError as error:
            # Not the error itself, which holds on to what the step had allocated.
            said = str(error) or "out of memory"
        except Exception:
            self._failures(1)
            raise
        failures = self._failures(int(bool(said)))
        if said:
            raise torch.OutOfMemoryError(f"{self._advice()}\n{said}")
        if failures:
            raise RuntimeError(f"{failures} of {training.processes.world} processes failed at this step, and say why")
        return found, penalty

    def replays_step(self) -> bool:
        """Take the optimizer's step as part of a replay; False if it is to be taken as usual."""
        return self._replays is not None and self._replays.step()

    def _of_factorization(self, epoch: int, batch: int) -> Found:
        objective = self.training.objective
        key = None if self._replays is None else objective.replayable(epoch, batch)
        if self._replays is not None and key is not None:
            replayed = self._replays.losses(key, lambda: objective.find(self._call, epoch, batch).losses)
            if replayed is not None:
                return Found(*replayed)
        found = objective.find(self._call, epoch, batch)
        if found.losses.shape != self._shape or not found.losses.requires_grad:
            self._check(found.losses)
        for parameter in self.training.trained:
            parameter.grad = None
        found.losses.backward(torch.ones_like(found.losses))
        if self._replays is not None and key is not None:
            self._replays.seen(key, found.samples)
        return found

    def _in_training_mode(self) -> tuple[Found, Tensor | None]:
        training = self.training
        training.model.train()
        for module in self._kept_evaluated:
            module.training = False
        self._stepping.zero_grad()
        with (
            random_of_step(training.seed, training.step, training.processes.rank, training.device),
            training.processes.forward_and_backward(self._call),
        ):
            found = training.objective.find(self._call, training.epoch, training.batch)
            self._check(found.losses)
            penalty = None if training.regularizer is None else self._penalty(found)
            # Elsewhere the sums of the epoch say so: to ask at every step would wait for the device.
            if training.device.type == "cpu":
                self._check_finite(found.losses.detach(), penalty)
            training.processes.backward(_total(found.losses, penalty))
        return found, None if penalty is None else penalty.detach()

    def _check(self, losses: Tensor) -> None:
        training = self.training
        shape = losses.shape
        if shape != (training.runs,) and not (training.runs == 1 and shape == ()):
            raise ValueError(
                f"objective gave losses of shape {tuple(shape)}; expected ({training.runs},), a loss for each run"
                + " or a scalar" * (training.runs == 1)
            )
        if losses.is_complex():
            raise TypeError(f"objective gave losses of dtype {losses.dtype}; expected real numbers")
        if not losses.requires_grad:
            raise ValueError("objective gave losses that do not depend on the model's parameters")

    def _penalty(self, found: Found) -> Tensor:
        training = self.training
        if found.batch is None or training.regularizer is None:
            raise ValueError("regularizer is given, and the objective has no inputs, targets and outputs to show to it")
        penalty: object = training.regularizer(self._call, *found.batch)
        if not isinstance(penalty, Tensor) or penalty.numel() != 1:
            shape = f" of shape {tuple(penalty.shape)}" if isinstance(penalty, Tensor) else ""
            raise TypeError(f"regularizer returned a {type(penalty).__name__}{shape}; expected a tensor of one number")
        return penalty.reshape(())

    def _check_finite(self, losses: Tensor, penalty: Tensor | None) -> None:
        training = self.training
        added = 0.0 if penalty is None else float(penalty.detach())
        if bool(losses.isfinite().all()) and math.isfinite(added):
            return
        worst = float(losses.reshape(-1)[int(losses.reshape(-1).isfinite().int().argmin())])
        raise FloatingPointError(
            f"the loss is {worst:g} and the regularizer adds {added:g} at step {training.batch + 1} of epoch "
            f"{training.epoch + 1}; the last checkpoint is kept"
        )

    def _failures(self, own: int) -> int:
        """How many processes failed; without knowing, they would wait for each other's gradients."""
        training = self.training
        return (
            int(training.processes.total(torch.tensor(own, device=training.device)))
            if training.processes.world > 1
            else own
        )

    def _advice(self) -> str:
        training = self.training

        def attempt(found: Found, regularized: bool) -> None:
            self._stepping.zero_grad()
            training.processes.backward(_total(found.losses, self._penalty(found) if regularized else None))

        where = training.epoch, training.batch
        with training.processes.forward_and_backward(self._call):
            advice = training.objective.advise(attempt, self._call, where, training.regularizer is not None)
        self._stepping.zero_grad()
        return advice


def _total(losses: Tensor, penalty: Tensor | None) -> Tensor:
    total = losses.sum() if losses.ndim else losses
    return total if penalty is None else total + penalty
