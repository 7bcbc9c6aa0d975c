"""The formulas of the method, written as slowly and literally as possible: float64, one row, one point at a time."""

import math

import numpy as np


def softmax(logits):
    top = max(logits)
    terms = [math.exp(v - top) for v in logits]
    return [t / sum(terms) for t in terms]


def squared_distance(x, mu):
    return sum((float(a) - float(b)) ** 2 for a, b in zip(x, mu))


def conditional(x, points, sigma, temperature=1.0):
    """Weights of eq. 3 for one row x."""
    return softmax([-squared_distance(x, mu) / (2 * sigma**2 * temperature) for mu in points])


def level_logit(r2, d, sigma):
    """f of the paper: log of lambda(sigma) N(x; mu, sigma^2), lambda = sigma^2, without constants."""
    return -(d - 2) * np.log(sigma) - r2 / (2 * sigma**2)


def fine_levels(sigma_min, sigma_max, count):
    """Midpoints of equal intervals in log sigma."""
    edges = np.linspace(math.log(sigma_min), math.log(sigma_max), count + 1)
    return np.exp((edges[1:] + edges[:-1]) / 2)


def plain_levels(sigma_min, sigma_max, count=1000):
    return np.exp(np.linspace(math.log(sigma_min), math.log(sigma_max), count))


def log_sum(values):
    top = values.max()
    return top + math.log(np.exp(values - top).sum())


def marginal(r2, d, levels):
    """log sum_i exp f and log E[sigma^-2] for one squared distance, by brute force over `levels`."""
    f = level_logit(r2, d, levels)
    log_weight = log_sum(f)
    return log_weight, log_sum(f - 2 * np.log(levels)) - log_weight


def temper(log_weight, log_precision, temperature):
    """Weights and levels when log w - log sigma^2 is divided by one temperature."""
    pull = softmax([(w + p) / temperature for w, p in zip(log_weight, log_precision)])
    raw = [q * math.exp(-p) for q, p in zip(pull, log_precision)]
    return [w / sum(raw) for w in raw], [math.exp(-p / 2) for p in log_precision]


def unconditional(x, points, levels, temperature=1.0):
    """p_MN over the given levels for one row: weights and sigma of each point."""
    both = [marginal(squared_distance(x, mu), len(x), levels) for mu in points]
    return temper([w for w, _ in both], [p for _, p in both], temperature)


def peak_level(r2, d, sigma_min, sigma_max):
    if d <= 2:
        return sigma_max
    return min(max(math.sqrt(r2 / (d - 2)), sigma_min), sigma_max)


def best_level(x, points, sigma_min, sigma_max, temperature=1.0):
    d = len(x)
    r2 = [squared_distance(x, mu) for mu in points]
    level = [peak_level(r, d, sigma_min, sigma_max) for r in r2]
    f = [float(level_logit(r, d, s)) for r, s in zip(r2, level)]
    return temper(f, [-2 * math.log(s) for s in level], temperature)


def paper(x, points, sigma_min, sigma_max, sigma_collapse):
    d = len(x)
    r2 = [squared_distance(x, mu) for mu in points]
    level = [peak_level(r, d, sigma_min, sigma_max) for r in r2]
    f = [float(level_logit(r, d, s)) for r, s in zip(r2, level)]
    return softmax([v / max(sigma_collapse / s, 1.0) for v, s in zip(f, level)]), level


def denoise(weights, levels, points):
    """Mean of the points under weights w / sigma^2."""
    pull = [w / s**2 for w, s in zip(weights, levels)]
    return sum(p * np.asarray(mu, float) for p, mu in zip(pull, points)) / sum(pull)


def score(weights, levels, x, points):
    x = np.asarray(x, float)
    return sum(w * (np.asarray(mu, float) - x) / s**2 for w, s, mu in zip(weights, levels, points))


def tangent(x, points, index, h, sigma):
    """log p(x) and E[mu' | x] of 1/n sum_j N(mu_j, h^2 C_j + sigma^2 I) with explicit d x d covariances."""
    x, points = np.asarray(x, float), np.asarray(points, float)
    n, d = points.shape
    logs, means = [], []
    for j in range(n):
        c = np.zeros((d, d))
        for k in index[j]:
            offset = points[k] - points[j]
            c += np.outer(offset, offset) / len(index[j])
        cov = h**2 * c + sigma**2 * np.eye(d)
        solved = np.linalg.solve(cov, x - points[j])
        _, logdet = np.linalg.slogdet(cov)
        logs.append(-0.5 * (d * math.log(2 * math.pi) + logdet + (x - points[j]) @ solved) - math.log(n))
        means.append(points[j] + h**2 * c @ solved)
    weights = softmax(logs)
    return log_sum(np.array(logs)), sum(w * m for w, m in zip(weights, means))
