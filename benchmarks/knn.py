"""Rows of the neighbor table against faiss and scikit-learn: python -m benchmarks.knn."""

from importlib import import_module

import torch
from benchmarks.common import arguments, images, ratios, roof, say, show

from temperance.distance import Neighbors
from temperance.engine import Finder


def compare(n: int, d: int, k: int, rows: int, checked: int = 64) -> dict:
    """Time of `rows` rows of an n x n table and recall of the first `checked`; every method has its index ready."""
    faiss, sklearn = import_module("faiss"), import_module("sklearn.neighbors")
    points = images(n, d)
    x, own = points[:rows], torch.arange(rows)
    finder, flat = Finder(points), faiss.IndexFlatL2(d)
    flat.add(points.numpy())
    brute = sklearn.NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(points.numpy())
    found: dict[str, Neighbors] = {}

    def ours() -> None:
        found["ours"] = finder(x, k, own)

    r = ratios(
        {
            "ours": ours,
            "faiss": lambda: flat.search(x.numpy(), k + 1),
            "sklearn": lambda: brute.kneighbors(x.numpy()),
        },
        rounds=3,
    )
    some = slice(0, checked)
    true = (x[some, None].double() - points[None, : min(n, 4096)].double()).square().sum(2) if n <= 4096 else None
    exact = _exact(x[some], points, k) if true is None else true.topk(k + 1, largest=False).indices[:, 1:]
    got = found["ours"].index[some]
    recall = float((exact[:, :, None] == got[:, None]).any(2).float().mean())
    say(f"n {n} d {d} k {k}: {r['faiss']:.2f} times as fast as faiss, {r['sklearn']:.2f} as scikit-learn")
    return {"n": n, "d": d, "k": k, "rows": rows, "vs_faiss": r["faiss"], "vs_sklearn": r["sklearn"], "recall": recall}


def _exact(x: torch.Tensor, points: torch.Tensor, k: int) -> torch.Tensor:
    """Float64 differences over all points, row by row."""
    out = []
    for i, row in enumerate(x.double()):
        r2 = torch.cat([(part.double() - row).square().sum(1) for part in points.split(4096)])
        r2[i] = torch.inf
        out.append(r2.topk(k, largest=False).indices)
    return torch.stack(out)


if __name__ == "__main__":
    options = arguments()
    cases = [compare(50_000, 3072, 100, *((256, 16) if options.quick else (4096, 64)))]
    if not options.quick:
        cases += [compare(50_000, 784, 10, 4096), compare(50_000, 3072, 10, 4096), compare(5_000, 784, 30, 4096)]
    head = {"speedup_vs_faiss": cases[0]["vs_faiss"], "speedup_vs_sklearn": cases[0]["vs_sklearn"]}
    show({**head, "recall": min(c["recall"] for c in cases), "roof": roof(), "cases": cases}, options.json)
