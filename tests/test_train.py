import json
import shutil

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from temperance.atomic import is_complete
from temperance.network import Preconditioned, ResidualMlp
from temperance.objective import NoiseConditional
from temperance.schedule import Edm
from temperance.train import NonFiniteLoss, Settings, batch_index, checkpoints, train

POINTS = (torch.from_numpy(load_digits().images[:40]).float() / 8 - 1)[:, None]
OBJECTIVE = NoiseConditional(Edm())
SHORT = Settings(steps=60, batch_size=32, warmup=5, checkpoint_every=20, log_every=10)


def fresh(seed=0):
    torch.manual_seed(seed)
    return Preconditioned(ResidualMlp(64, width=32, depth=1), 0.5)


def run(denoiser, settings=SHORT, **options):
    return train(denoiser, OBJECTIVE, POINTS, settings, progress=False, device="cpu", **options)


def same(a, b):
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run: its folder, network and average."""
    out, denoiser = tmp_path_factory.mktemp("run"), fresh()
    return out, denoiser, run(denoiser, out=out)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "run")


def test_the_loss_falls(finished):
    rows = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    for key in ("loss", "lr", "grad_norm", "images_per_second"):
        assert all(row[key] > 0 for row in rows)
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]


def test_the_average_follows_the_network(finished):
    _, denoiser, average = finished
    assert not same(denoiser, average)
    assert not average.training and not any(p.requires_grad for p in average.parameters())
    start = fresh()

    def distance(a, b):
        return sum(float((p - q).detach().square().sum()) for p, q in zip(a.parameters(), b.parameters())) ** 0.5

    assert 0 < distance(average, denoiser) < distance(start, denoiser)


def test_only_the_newest_complete_checkpoints_are_kept(finished):
    assert [p.name for p in checkpoints(finished[0])] == ["checkpoint-60", "checkpoint-40"]
    assert sorted(p.name for p in finished[0].iterdir()) == ["checkpoint-40", "checkpoint-60", "metrics.jsonl"]
    assert all(is_complete(p) for p in checkpoints(finished[0]))


def test_the_same_seed_gives_the_same_run(finished):
    denoiser = fresh()
    average = run(denoiser)
    assert same(denoiser, finished[1]) and same(average, finished[2])


def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(finished, copy):
    shutil.rmtree(copy / "checkpoint-60")
    log = (copy / "metrics.jsonl").read_text().splitlines()
    denoiser = fresh(seed=9)  # whatever it starts from is overwritten
    average = run(denoiser, out=copy, resume=True)
    assert same(denoiser, finished[1])
    assert same(average, finished[2])
    again = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    for row, old in zip(again, map(json.loads, log), strict=True):
        assert {k: row[k] for k in ("step", "loss", "lr", "grad_norm")} == {
            k: old[k] for k in ("step", "loss", "lr", "grad_norm")
        }


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_newest_checkpoint_is_passed_over(finished, copy, name):
    victim = copy / "checkpoint-60" / name
    victim.write_bytes(victim.read_bytes()[:-3])
    assert [p.name for p in checkpoints(copy)] == ["checkpoint-40"]
    denoiser = fresh(seed=9)
    average = run(denoiser, out=copy, resume=True)
    assert same(denoiser, finished[1]) and same(average, finished[2])
    assert is_complete(copy / "checkpoint-60")


def test_nothing_to_resume(tmp_path):
    with pytest.raises(ValueError, match="nothing to resume"):
        run(fresh(), out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="nothing to resume"):
        run(fresh(), resume=True)


def test_visits_come_with_every_checkpoint_and_at_the_end():
    seen = []
    settings = Settings(steps=7, batch_size=8, checkpoint_every=3)
    run(fresh(), settings, visit=lambda step, average: seen.append((step, isinstance(average, Preconditioned))))
    assert seen == [(3, True), (6, True), (7, True)]


@pytest.mark.parametrize(("n", "size"), [(40, 32), (40, 40), (7, 20), (10, 3), (1, 5)])
def test_every_epoch_covers_every_row_once(n, size):
    steps = n * 4 // size + 1
    order = torch.cat([batch_index(n, size, step, seed=3) for step in range(steps)])
    assert all(len(batch_index(n, size, step, seed=3)) == size for step in range(steps))
    epochs = order[: len(order) // n * n].reshape(-1, n)
    assert len(epochs) >= 4
    assert (epochs.sort(1).values == torch.arange(n)).all()
    if n >= 7:
        assert not torch.equal(epochs[0], epochs[1])
        assert not torch.equal(batch_index(n, n, 0, seed=3), batch_index(n, n, 0, seed=4))


class Bomb(nn.Module):
    """Turns to NaN after a number of calls."""

    def __init__(self, calls):
        super().__init__()
        self.weight, self.left = nn.Parameter(torch.ones(1)), calls

    def forward(self, x, sigma):
        self.left -= 1
        return self.weight * x * (1 if self.left >= 0 else float("nan"))


def test_a_loss_that_is_not_a_number_stops_the_run_and_spares_the_checkpoint(tmp_path):
    settings = Settings(steps=60, batch_size=8, checkpoint_every=4, log_every=50, keep=2)
    with pytest.raises(NonFiniteLoss, match="lower --lr"):
        run(Bomb(10), settings, out=tmp_path)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-8", "checkpoint-4"]


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"batch_size": -1}, {"lr": 0.0}, {"lr": float("nan")}, {"ema": 1.0}, {"keep": 0}]
)
def test_unusable_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Settings(**bad)
