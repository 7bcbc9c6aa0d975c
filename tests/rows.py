"""Rows of features, and their distances the plain way."""

import torch


def sets(n=60, m=50, f=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, f, generator=g), torch.randn(m, f, generator=g)


def cdist(a, b):
    return (a[:, None].double() - b[None].double()).norm(dim=-1)
