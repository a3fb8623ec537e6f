"""A plain loop of gradient descent that records as `htf.training.fit` does, and dense problems for it."""

import torch

from htf.training.history import Recorder
from htf.training.tracking import Moment


def descend(network, losses, trackers, steps, lr, every=10, relative=True):
    """Steps of size lr over the norm of each run's gradient (or of lr itself), along the gradient.

    `losses` maps a network to a loss per run, by its end matrices if it is a MatrixFactorization.
    """
    recorder = Recorder({"trackers": {tracker.name: tracker.describe(network) for tracker in trackers}})
    time = torch.zeros(network.runs, dtype=torch.float64)
    rates = torch.zeros_like(time)
    parameters = list(network.parameters())
    for step in range(steps + 1):
        network.zero_grad()
        value = losses(network)
        value.sum().backward()
        if step % every in (0, 1):
            moment = moment_of(network, losses, step)
            row = {"time": time, "rate": rates, "loss": value.detach(), "test_error": torch.full_like(time, torch.nan)}
            for tracker in trackers:
                row |= {f"tracked/{tracker.name}/{key}": found for key, found in tracker.measure(moment).items()}
            recorder.add(step, row)
        rates = torch.full_like(time, lr)
        if relative:
            rates = rates / run_norms(network)
        with torch.no_grad():
            for parameter, rate in zip(parameters, network.spread(rates), strict=True):
                parameter -= rate * parameter.grad
        time = time + rates
    return recorder.history()


def moment_of(network, losses, step=0):
    return Moment(network, step, losses(network).detach(), lambda: network.end_gradient(losses.of_tensors))


def run_norms(network):
    """Norm of the whole gradient of each run."""
    if network.runs == 1:
        return torch.stack([p.grad.norm() for p in network.parameters()]).norm().view(1)
    squares = torch.zeros(network.runs, dtype=torch.float64)
    for run in range(network.runs):
        marks = network.spread((torch.arange(network.runs) == run).double())
        for parameter, mark in zip(network.parameters(), marks, strict=True):
            squares[run] += (parameter.grad * mark).square().sum()
    return squares.sqrt()


class DenseLoss:
    """Mean weighted square of the difference to a dense target, from the tensors that `dense` makes of each run."""

    def __init__(self, target, dense, weight=1.0):
        self.target, self.dense, self.weight = target, dense, weight

    def of_tensors(self, tensors):
        return (self.weight * (tensors - self.target).square()).flatten(1).mean(1)

    def __call__(self, network):
        return self.of_tensors(torch.stack([self.dense(network, run) for run in range(network.runs)]))

    def gradient(self, network, run):
        """With respect to the tensor of one run, dense."""
        tensor = self.dense(network, run).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.of_tensors(tensor[None]).sum(), tensor)
        return gradient
