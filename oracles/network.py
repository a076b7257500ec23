"""The networks and the digits that every library attacks."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustspike as rs


@cache
def digits(n: int) -> tuple[Tensor, Tensor]:
    """The first n test digits: x [n, 1, 8, 8] in [0, 1] and y [n]."""
    test = rs.data.load("digits").test
    return test.images[:n], test.labels[:n]


@cache
def relu_network(epochs: int = 10, eps: float = 0.1) -> nn.Sequential:
    """A convolutional ReLU network, [N, 1, 8, 8] to [N, 10], in evaluation mode; trained against PGD-3 for seconds.

    Trained against attacks because on an undefended network all attacks do equally well.
    """
    data = rs.data.load("digits").train
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: tuple[nn.Module, ...] = (
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
        network = nn.Sequential(*layers)
        attack, optimizer = rs.PGD(rs.Linf(eps), steps=3), torch.optim.Adam(network.parameters(), 2e-3)
        for _ in range(epochs):
            for batch in torch.randperm(len(data)).split(64):
                x, y = data.images[batch], data.labels[batch]
                optimizer.zero_grad()
                F.cross_entropy(network(attack(network, x, y)), y).backward()
                optimizer.step()
    for p in network.parameters():
        p.requires_grad_(False)
    return network.eval()


@cache
def spiking_network(epochs: int = 3, eps: float = 0.05) -> rs.SNN:
    """A spiking network with normalisation inside, [N, 1, 8, 8] to [N, 10], in evaluation mode; as the ReLU network.

    Of chance: float32 on another machine trains another network.
    """
    data = rs.data.load("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = rs.models.digits_cnn(time_steps=4, mean=data.mean, std=data.std)
        objective = rs.defences.at(rs.PGD(rs.Linf(eps), steps=3))
        rs.fit(network, data.train, objective, epochs=epochs, crop_padding=0, flip=False, progress=False)
    return network.eval()
