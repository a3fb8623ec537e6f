"""Small models for the tests of surgery."""

import torch
from torch import nn


class Branches(nn.Module):
    """A model with a shared module, shared weights, a container of each kind and a buffer."""

    def __init__(self, tied=True):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=k > 0) for k in range(2))
        self.heads = nn.ModuleDict({"first": nn.Linear(8, 12), "second": nn.Linear(8, 12)})
        self.again = self.blocks[1] if tied else nn.Conv2d(8, 8, 3, padding=1)
        self.register_buffer("scale", torch.tensor(2.0))
        if tied:
            self.heads["second"].weight = self.heads["first"].weight

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + torch.relu(block(x))
        x = (x + self.again(x)).mean((2, 3))
        return self.scale * (self.heads["first"](x) + self.heads["second"](x).square())


def branches(tied=True, seed=0, **kind):
    torch.manual_seed(seed)
    return Branches(tied).to(**kind)


def cnn(seed=0):
    """Linear layers and convolutions one after another."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def images(n=4, size=8, seed=0, dtype=torch.float32):
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def train(model, steps=3, lr=0.05, seed=1):
    """A few steps of gradient descent on random targets."""
    x = images(8, seed=seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model


@torch.no_grad()
def outputs(model, x):
    """In evaluation mode; the model's own is kept."""
    training = {module: module.training for module in model.modules()}
    y = model.eval()(x)
    for module, mode in training.items():
        module.training = mode
    return y
