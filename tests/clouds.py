"""Clouds of points, and a posterior held against the oracle's."""

import numpy as np
import pytest
import torch

import oracle
from temperance.empirical import (
    denoise,
    score,
)

DIMS = [1, 2, 3, 64]
LOW, HIGH = 0.01, 50.0


def cloud(n, d, seed=0, scale=1.0):
    """Points with one exact duplicate, and rows: near a point, on a point, generic, far away."""
    g = torch.Generator().manual_seed(seed)
    points = torch.randn(n, d, generator=g, dtype=torch.float64)
    points[1] = points[0]
    rows = torch.randn(4, d, generator=g, dtype=torch.float64)
    rows[0] = points[2] + 0.02 * rows[0]
    rows[1] = points[0]
    rows[3] = 300.0 * rows[3]
    return scale * rows, scale * points


def full(sigma, x):
    return torch.full((len(x),), float(sigma), dtype=torch.float64)


def agree(posterior, expected, x, points, rtol=1e-8):
    """Weights, levels, denoised and score of a posterior against the oracle's (weights, levels) of each row."""
    for row, (weights, levels) in enumerate(expected):
        assert posterior.weights[row].numpy() == pytest.approx(weights, rel=rtol, abs=1e-11)
        found = posterior.sigma[row].expand(len(points)).numpy()
        assert found == pytest.approx(levels, rel=rtol)
        mean = oracle.denoise(weights, levels, points.numpy())
        reach = float(points.abs().max())
        assert denoise(posterior, points)[row].numpy() == pytest.approx(mean, rel=rtol, abs=rtol * reach)
        want = oracle.score(weights, levels, x[row].numpy(), points.numpy())
        size = np.abs(want).max() + reach * (np.array(weights) / np.array(levels) ** 2).sum()
        assert score(posterior, x, points)[row].numpy() == pytest.approx(want, rel=rtol, abs=rtol * size)
