"""Copying measured while images come in: for training loops, validation epochs, and many processes.

`CopyMetric` follows the contract of torchmetrics (update, compute, forward, reset, merge, sync) without needing it. Its
figures are those of `temperance.metrics` on all images at once, to the last bit, whatever the order and the batches.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from temperance import metrics as tm
from temperance.data import check_range, warn_of_range
from temperance.distance import duplicates
from temperance.features import Encoder, Pixels, encode
from temperance.report import Measurement


class CopyMetric:
    """How much a stream of generated images copies a training set, with held-out images as the null.

    ```python
    metric = CopyMetric(train, heldout)
    for batch in samples:
        metric.update(batch)
    print(metric.compute())        # {"memorized_fraction": tensor(0.02), "ratio_median": ...}
    metric.reset()
    ```

    Kept per image: three numbers. Kept once: the features of the training images. Calls may be chained.

    Attributes:
        higher_is_better: False; of the figures, `authpct` alone is better when higher.
        is_differentiable: False.
        full_state_update: False, as torchmetrics asks: a batch's own value needs no earlier state.
    """

    higher_is_better, is_differentiable, full_state_update = False, False, False

    def __init__(
        self,
        train: Float[Tensor, "n c h w"],
        heldout: Float[Tensor, "m c h w"] | None = None,
        *,
        encoder: Encoder | None = None,
        duplicate_radius: float = 0.0,
    ):
        """Encode the real images and measure the null, once.

        Args:
            train: the training images, in [-1, 1].
            heldout: unseen real images: adds `memorized_adaptive`, `copy_auc`, `ct_score` and every null.
            encoder: the feature space; pixels by default.
            duplicate_radius: training images within this feature distance of each other count as one.

        Raises:
            ValueError: if a set is empty or train has fewer than 2 distinct images.

        Cost: 2 f n m flops for the held-out images, then 2 f n per image of an update.
        """
        self.encoder, self.shape = encoder or Pixels(), train.shape[1:]
        if heldout is not None and not len(heldout):
            raise ValueError("heldout holds no images; give some, or leave it out")
        self.darkest = float(check_range(train, "train").min()) if len(train) else 0.0
        self.train = encode(self.encoder, train)
        self.group = duplicates(self.train, duplicate_radius)
        if len(self.group.unique()) < 2:
            raise ValueError(f"train holds 1 distinct image among {len(train)}; d1/d2 needs 2 distinct ones")
        self.spacing = torch.full((len(train),), torch.nan)
        self.null = None if heldout is None else self._near(heldout)
        self.parts: list[tm.Proximity] = []

    def __len__(self) -> int:
        """Count the images seen since the last reset."""
        return sum(len(p.index) for p in self.parts)

    def update(self, images: Float[Tensor, "n c h w"]) -> "CopyMetric":
        """Take in a batch. Returns itself (torchmetrics returns None)."""
        if len(images):
            self.parts.append(self._near(images.detach()))
        return self

    def _near(self, images: Tensor) -> tm.Proximity:
        if images.shape[1:] != self.shape:
            raise ValueError(f"images must be {tuple(self.shape)} as in training, got {tuple(images.shape[1:])}")
        warn_of_range(float(check_range(images, "images").min()), self.darkest, "images")
        return tm.proximity(encode(self.encoder, images.clamp(-1, 1)), self.train, self.group)  # as saving it would

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The figures of all images since the last reset, as float64 scalars on the CPU.

        Raises:
            ValueError: if there were none.
        """
        return {name: torch.tensor(m.value, dtype=torch.float64) for name, m in self.measurements().items()}

    def measurements(self) -> dict[str, Measurement]:
        """The same figures with interval, null and source.

        Raises:
            ValueError: if there were no images.
        """
        if not self.parts:
            raise ValueError("no images since the last reset; call update with a batch of images first")
        near, null = self._state(), self.null
        found = [
            tm.memorized_fraction(near, null),
            tm.ratio_median(near, null),
            tm.authpct(near, self._spacing(near, null), null),
        ]
        if null is not None:
            found += [
                tm.memorized_adaptive(near, null),
                tm.copy_auc(near.distance, null.distance),
                tm.ct_score(near.distance, null.distance),
            ]
        return {m.name: m for m in found}

    def forward(self, images: Float[Tensor, "n c h w"]) -> dict[str, Float[Tensor, ""]]:
        """Take in a batch and return the figures of this batch alone."""
        before, self.parts = self.parts, []
        try:
            found = self.update(images).compute()
        finally:
            self.parts = before + self.parts
        return found

    __call__ = forward

    def reset(self) -> "CopyMetric":
        """Forget the generated images; training and held-out images stay."""
        self.parts = []
        return self

    def merge(self, other: "CopyMetric") -> "CopyMetric":
        """Take in what another metric on the same training set has seen.

        Raises:
            ValueError: if its training features are others.
        """
        if other.encoder.name != self.encoder.name or not torch.equal(other.train, self.train):
            raise ValueError("the other metric measures against another training set or encoder; merge equal ones")
        self.parts = self.parts + other.parts
        return self

    def sync(self) -> "CopyMetric":
        """Take in what all processes of `torch.distributed` have seen; afterwards all hold the same state.

        Does nothing without an initialized process group. Call it once, before `compute`, then `reset`. Every process
        needs the same training and held-out images.

        Cost: 24 bytes per image and process.
        """
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return self
        mine = self._table()
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(dist.get_world_size())]
        dist.all_gather(sizes, torch.tensor([len(mine)], device=device))
        longest = max(int(s) for s in sizes)
        padded = torch.zeros(longest, 3, dtype=torch.float64, device=device)
        padded[: len(mine)] = mine
        tables = [torch.zeros_like(padded) for _ in sizes]
        dist.all_gather(tables, padded)
        return self._restore(torch.cat([t[: int(s)] for t, s in zip(tables, sizes)]).cpu())

    def state_dict(self) -> dict[str, Tensor]:
        """What has been seen, for a checkpoint: float64 [n, 3] of nearest index, d1 and d2."""
        return {"seen": self._table()}

    def load_state_dict(self, state: dict[str, Tensor]) -> "CopyMetric":
        """Continue from what `state_dict` returned, with the same training set."""
        return self._restore(state["seen"])

    def _state(self) -> tm.Proximity:
        """All images in one order of their own, so that no sum depends on how they came."""
        table = self._table()
        for column in (0, 2, 1):
            table = table[table[:, column].argsort(stable=True)]
        return tm.Proximity(table[:, 0].long(), table[:, 1].float(), table[:, 2].float())

    def _table(self) -> Float[Tensor, "n 3"]:
        rows = [torch.stack([column.double() for column in part], 1) for part in self.parts]
        return torch.cat(rows) if rows else torch.zeros(0, 3, dtype=torch.float64)

    def _restore(self, table: Tensor) -> "CopyMetric":
        whole = tm.Proximity(table[:, 0].long(), table[:, 1].float(), table[:, 2].float())
        self.parts = [whole] if len(table) else []
        return self

    def _spacing(self, *near: tm.Proximity | None) -> Float[Tensor, " n"]:
        """Distance of training images to the nearest other one, worked out once for those that were nearest."""
        chosen = torch.cat([p.index for p in near if p is not None]).unique()
        todo = chosen[self.spacing[chosen].isnan()]
        if len(todo):
            self.spacing[todo] = tm.proximity(self.train[todo], self.train, self.group).second
        return self.spacing
