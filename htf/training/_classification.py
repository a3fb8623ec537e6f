"""The training of a classifier, step by step."""

from __future__ import annotations

import math
import re
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from htf._machine import describe_machine, usable_device
from htf._modes import evaluated
from htf.datasets.long_range import LongRangeData
from htf.regularizers import InputGradientChange
from htf.training._classes import Images, check_outputs, class_loss, count_hits, hits, use_channels_last
from htf.training._digest import digest
from htf.training._draws import order_of_epoch, random_of_step
from htf.training._memory import largest_fitting
from htf.training._shares import Alone, Several
from htf.training._weights import copy_weights, load_weights, part_of
from htf.training.classify_result import ClassifyResult, Epoch
from htf.training.classify_settings import ClassifySettings, Regularizer, Stateful, describe_regularizer
from htf.training.fitting import CHECKPOINT
from htf.training.optimizers import optimizer_state, restore_optimizer
from htf.training.resumable import Resumable

RESULT = "result.json"
# Settings that may change when a training goes on.
_ENDS = ("epochs", "max_seconds", "stop_after_perfect")


class Classification(Resumable):
    """The training of `classify`, one step a unit.

    Parameters
    ----------
    model, data, settings, regularizer, out, device, fabric
        See `classify`.  If `out` has a checkpoint, the training goes on from there.

    Attributes
    ----------
    history : list of Epoch
        Of the finished epochs.
    batch : int
        Batches done in the present epoch.
    processes : Alone or Several
        Those that share the work.
    """

    def __init__(
        self,
        model: nn.Module,
        data: LongRangeData,
        settings: ClassifySettings,
        *,
        regularizer: Regularizer | None = None,
        out: str | Path | None = None,
        device: str | torch.device | None = None,
        fabric: Any = None,
    ) -> None:
        self.model, self.settings, self.regularizer = model, settings, regularizer
        # A compiled model has other names for the same parameters.
        self._bare: nn.Module = getattr(model, "_orig_mod", model)
        # In a model that is to be trained, modules in evaluation mode, as frozen batch normalization is, stay so.
        self._kept_evaluated = (
            [module for module in self._bare.modules() if not module.training] if model.training else []
        )
        if not isinstance(data, LongRangeData):
            raise TypeError(f"data is a {type(data).__name__}; expected a LongRangeData, with all of its splits")
        given: object = regularizer
        self._stateful = given if isinstance(given, Stateful) else None
        self.processes = Alone() if fabric is None else Several(fabric)
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("model has no parameter that requires a gradient; expected one to train")
        self.device = _device(parameters[0], device, fabric)
        model.to(self.device)
        # Where gradients of most images are differentiated in turn, channels last gain nothing.
        all_twice = isinstance(regularizer, InputGradientChange) and regularizer.samples is None
        channels_last = not all_twice and use_channels_last(model)
        # With a graph of gradients at the images, the regularizer needs no pass of its own for them.
        self._graph_to_images = all_twice
        self.optimizer = torch.optim.SGD(
            parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        self._trained = parameters
        data_sha256 = data.fingerprint
        self._call, self._optimizer = self.processes.set_up(model, self.optimizer)
        self._parts = {
            part: Images(getattr(data, part), self.device, parameters[0].dtype, channels_last)
            for part in ("train", "validation", "test")
        }
        self.batches = math.ceil(len(data.train) / settings.batch_size)
        self._check(data)
        self.about = {
            "training": {
                "data": data.name,
                "data_sha256": data_sha256,
                "regularizer": describe_regularizer(regularizer),
                "processes": self.processes.world,
                **_architecture(self._bare),
            },
            # The rest may be prolonged.
            "settings": {key: v for key, v in asdict(settings).items() if key not in _ENDS},
        }
        self.described = {
            "model": {"class": type(self._bare).__name__, "parameters": sum(p.numel() for p in model.parameters())},
            "data": {"name": data.name, "sha256": data_sha256, **data.settings},
            "regularizer": describe_regularizer(regularizer),
            "processes": self.processes.world,
            **asdict(settings),
        }
        self.history: list[Epoch] = []
        self.batch = 0
        self.seconds = 0.0
        # Of the epoch so far: loss, penalty, hits and samples.
        self._sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        self._order: tuple[Tensor, ...] = ()
        self._warned = False
        self._start = digest(*self._bare.state_dict().values())
        self._best = copy_weights(self._bare)
        self._best_epoch = 0
        self.folder = None if out is None else Path(out)
        self.checkpoint = None if self.folder is None else self.folder / CHECKPOINT
        self.resume()
        self.processes.together()
        if self.processes.rank > 0:
            self.checkpoint = None

    def _check(self, data: LongRangeData) -> None:
        # The smallest batches count, and some may be larger by one.
        world, (size, larger) = self.processes.world, divmod(len(data.train), self.batches)
        if size < 2 * world:
            raise ValueError(
                f"{'some ' * (larger > 0)}batches have {size} images for {world} process{'es' * (world > 1)}; "
                "expected at least 2 for each: a larger batch_size, or more training images"
            )
        with evaluated(self.model), torch.no_grad():
            out = self.model(self._parts["train"].batch(slice(0, 2))[0])
        check_outputs(out, 2, int(data.train.labels.max()) + 1)

    @property
    def steps(self) -> int:
        """Steps in all, if nothing ends them early."""
        return self.settings.epochs * self.batches

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.history) * self.batches + self.batch

    @property
    def stopped(self) -> str:
        """Why nothing is left to do; "" while something is."""
        if self.batch > 0 or not self.history:
            return ""
        if len(self.history) >= self.settings.epochs:
            return "epochs"
        if self.settings.max_seconds is not None and self.seconds >= self.settings.max_seconds:
            return "time"
        patience = self.settings.stop_after_perfect
        if patience and [e.train_accuracy for e in self.history[-patience:]] == [1.0] * patience:
            return "perfect"
        return ""

    @property
    def finished(self) -> bool:
        return bool(self.stopped)

    def advance(self) -> None:
        """Take one step; after the last of an epoch, validate."""
        began = time.perf_counter()
        x, y = self._parts["train"].batch(self._indices())
        said = ""
        try:
            sums = self._gradients(x, y)
        except torch.OutOfMemoryError as error:
            # Not the error itself, which holds on to what the step had allocated.
            said = str(error) or "out of memory"
        except Exception:
            self._failures(1)
            raise
        failures = self._failures(int(bool(said)))
        if said:
            raise self._out_of_memory(x, y, said)
        if failures:
            raise RuntimeError(f"{failures} of {self.processes.world} processes failed at this step, and say why")
        self._take_step(sums)
        self.batch += 1
        if self.batch == self.batches:
            self._end_epoch(began)
        else:
            self.seconds += time.perf_counter() - began

    def _failures(self, own: int) -> int:
        """How many processes failed; without knowing, they would wait for each other's gradients."""
        return int(self.processes.total(torch.tensor(own, device=self.device))) if self.processes.world > 1 else own

    def _indices(self) -> Tensor:
        """Images of the present step, of this process's share."""
        if self.batch == 0 or not self._order:
            order = order_of_epoch(len(self._parts["train"]), self.settings.seed, len(self.history))
            self._order = order.tensor_split(self.batches)
        indices = self._order[self.batch]
        # Equal shares, so that random numbers of all processes' regularizers stay in step.
        share = len(indices) // self.processes.world
        return indices[self.processes.rank * share :][:share].to(self.device)

    def _gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """Leave the gradients of this process's share; its loss, penalty, hits and number of samples."""
        self.model.train()
        for module in self._kept_evaluated:
            module.training = False
        self._optimizer.zero_grad()
        x.requires_grad_(self._graph_to_images)
        with (
            random_of_step(self.settings.seed, self.step, self.processes.rank, self.device),
            self.processes.forward_and_backward(self._call),
        ):
            loss, penalty, found = self._losses(x, y, self.regularizer)
            values = loss.detach(), penalty.detach()
            if not bool((values[0] + values[1]).isfinite()):
                raise FloatingPointError(
                    f"the loss is {float(values[0]):g} and the regularizer adds {float(values[1]):g} at step "
                    f"{self.batch + 1} of epoch {len(self.history) + 1}; the last checkpoint is kept"
                )
            self.processes.backward(loss + penalty)
        return torch.stack([*(value.double() * len(y) for value in values), found, found.new_tensor(len(y))])

    def _take_step(self, sums: Tensor) -> None:
        gradients = [p.grad for p in self._trained if p.grad is not None]
        statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        self.processes.average([*gradients, *statistics, sums])
        self._optimizer.step()
        self._sums += sums

    def _losses(self, x: Tensor, y: Tensor, regularizer: Regularizer | None) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, what the regularizer adds, and hits."""
        out = self._call(x)
        loss = class_loss(out, y)
        penalty = torch.zeros_like(loss) if regularizer is None else regularizer(self._call, x, y, out)
        if not isinstance(penalty, Tensor) or penalty.numel() != 1:
            shape = f" of shape {tuple(penalty.shape)}" if isinstance(penalty, Tensor) else ""
            raise TypeError(f"regularizer returned a {type(penalty).__name__}{shape}; expected a tensor of one number")
        return loss, penalty.reshape(()), hits(out.detach(), y)

    def _out_of_memory(self, x: Tensor, y: Tensor, said: str) -> torch.OutOfMemoryError:
        def attempt(size: int, regularizer: Regularizer | None = self.regularizer) -> None:
            self._optimizer.zero_grad()
            loss, penalty, _ = self._losses(x[:size], y[:size], regularizer)
            self.processes.backward(loss + penalty)

        with self.processes.forward_and_backward(self._call):
            size = largest_fitting(attempt, len(x) // 2, least=2)
            plain = self.regularizer and largest_fitting(lambda size: attempt(size, None), len(x), least=len(x))
        self._optimizer.zero_grad()
        advice = f"{size} fitted: take batch_size={size * self.processes.world}" if size else "nor did 2"
        if plain:
            advice += "; all of them fit without the regularizer, whose own samples may be too many"
        return torch.OutOfMemoryError(
            f"a batch of {len(x)} images did not fit into the memory of {self.device}; {advice}\n{said}"
        )

    def _end_epoch(self, began: float) -> None:
        loss, penalty, found, samples = self._sums.tolist()
        validation = self._accuracy("validation")
        seconds = torch.tensor([self.seconds + time.perf_counter() - began], dtype=torch.float64, device=self.device)
        # One clock for all processes: they have to stop together.
        self.processes.average([seconds])
        self.seconds = float(seconds)
        self.history.append(Epoch(loss / samples, found / samples, penalty / samples, validation, self.seconds))
        self.batch = 0
        self._sums.zero_()
        best = self.history[self._best_epoch - 1].validation_accuracy if self._best_epoch else None
        if validation is None or best is None or validation > best:
            self._best, self._best_epoch = copy_weights(self._bare), len(self.history)

    def _accuracy(self, part: str) -> float | None:
        images = self._parts[part]
        if not len(images):
            return None
        share = (self.processes.rank, self.processes.world)
        # By the model itself: evaluation needs none of what a Fabric adds, and no process waits for another.
        found = count_hits(self.model, images, self.settings.batch_size, share)
        right, unusual = self.processes.total(found).tolist()
        if unusual and not self._warned and self.processes.rank == 0:
            self._warned = True
            warnings.warn(
                f"the model's outputs are not finite for {unusual} of {len(images)} {part} images after epoch "
                f"{len(self.history) + (part == 'validation')}; they count as wrong, here and from now on",
                RuntimeWarning,
                stacklevel=2,
            )
        accuracy: float = right / len(images)
        return accuracy

    def result(self) -> ClassifyResult:
        """Test the last model and the best on validation; kept in the folder of the run, and loaded from there."""
        if not self.finished:
            raise ValueError(f"the training is at step {self.step} of {self.steps}; expected one that is finished")
        path = None if self.folder is None else self.folder / RESULT
        if path is not None and path.exists():
            there = ClassifyResult.load(path)
            self.processes.together()
            if there.history == tuple(self.history):
                return there
        last = self._accuracy("test")
        weights = copy_weights(self._bare)
        load_weights(self._bare, self._best)
        best = self._accuracy("test")
        load_weights(self._bare, weights)
        machine = describe_machine(self.device)
        found = ClassifyResult(last, best, self._best_epoch, tuple(self.history), self.stopped, self.described, machine)
        if self.checkpoint is not None and path is not None:
            self.save()
            found.save(path)
        self.processes.together()
        return found

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights, the best ones, momentum, the regularizer's memory and the epochs so far."""
        tensors = {f"model/{name}": tensor for name, tensor in self._bare.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self._best.items()}
        momentum, _ = optimizer_state(self.optimizer, self._trained)
        tensors |= {f"optimizer/{name}": tensor for name, tensor in momentum.items()}
        memory: dict[str, Any] = {} if self._stateful is None else self._stateful.state()
        tensors |= {f"regularizer/{name}": value for name, value in memory.items() if isinstance(value, Tensor)}
        return tensors | {"sums": self._sums}, {
            "start": self._start,
            "now": digest(*self._bare.state_dict().values()),
            "batch": self.batch,
            "seconds": self.seconds,
            "best_epoch": self._best_epoch,
            "history": [asdict(epoch) for epoch in self.history],
            "regularizer": {name: value for name, value in memory.items() if not isinstance(value, Tensor)},
        }

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        start = self.begun_alike(self._start, state)
        if len(state["history"]) + (state["batch"] > 0) > self.settings.epochs:
            raise ValueError(
                f"epochs is {self.settings.epochs}; {self.checkpoint} has begun epoch "
                f"{len(state['history']) + (state['batch'] > 0)}: expected at least as many, or another folder"
            )
        self._start = start
        load_weights(self._bare, part_of("model/", tensors))
        self._best = {name: tensor.to(self.device) for name, tensor in part_of("best/", tensors).items()}
        restore_optimizer(self.optimizer, self._trained, part_of("optimizer/", tensors), {})
        if self._stateful is not None:
            self._stateful.load_state({**state["regularizer"], **part_of("regularizer/", tensors)})
        self._sums.copy_(tensors["sums"])
        self.batch, self.seconds, self._best_epoch = state["batch"], state["seconds"], state["best_epoch"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]


def _architecture(model: nn.Module) -> dict[str, Any]:
    """What a model is made of, as far as its modules tell, and the shapes of its parameters."""
    modules = {f"module {name}".strip(): _telling(module) for name, module in model.named_modules()}
    return modules | {f"shape of {name}": list(p.shape) for name, p in model.named_parameters()}


def _telling(module: nn.Module) -> str:
    name = type(module).__name__
    # These say where their parameters are.
    if isinstance(module, nn.ParameterList | nn.ParameterDict):
        return name
    # An address in memory would differ in the next process.
    return re.sub(r" at 0x\w+", "", f"{name}({module.extra_repr()})")


def _device(parameter: Tensor, device: str | torch.device | None, fabric: Any) -> torch.device:
    if fabric is None:
        return parameter.device if device is None else usable_device(device)
    if device is not None:
        raise ValueError(f"device is {str(device)!r} and there is a fabric, which decides it; expected one of them")
    found: torch.device = fabric.device
    return found
