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
from temperance.train import (
    NonFiniteLoss,
    Settings,
    batch_index,
    batch_target,
    checkpoints,
    learning_rate,
    read_metrics,
    train,
)
from temperance.train.batch import noise_seed
from temperance.train.step import loss_weight

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
    seen, earlier = [], []
    settings = Settings(steps=8, batch_size=8, checkpoint_every=3)
    run(
        fresh(), settings, earlier=lambda step, _: earlier.append(step),
        visit=lambda step, average: seen.append((step, isinstance(average, Preconditioned))),
    )  # fmt: skip
    assert seen == [(3, True), (6, True), (8, True)] and earlier == [1, 2, 3, 4, 6, 8]


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
    "bad",
    [{"steps": 0}, {"batch_size": -1}, {"lr": 0.0}, {"lr": float("nan")}, {"ema": 1.0}, {"keep": 0}, {"seed": -1}],
)
def test_unusable_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Settings(**bad)


def test_a_few_bad_steps_are_skipped_and_leave_no_trace_in_weights_or_average(tmp_path, capsys):
    class Cough(Bomb):
        def forward(self, x, sigma):
            self.left -= 1
            return self.weight * x * (float("nan") if self.left in (4, 3, 0) else 1)

    settings = Settings(steps=10, batch_size=8, checkpoint_every=5, log_every=10, max_skipped=2)
    denoiser = Cough(10)
    average = run(denoiser, settings, out=tmp_path)
    assert denoiser.weight.isfinite().all() and average.weight.isfinite().all()
    row = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert row["skipped"] == 3 and row["loss"] > 0 and row["grad_norm"] is None  # the last step was one of them
    assert capsys.readouterr().err.count("skipped (") == 3
    assert not (tmp_path / "nonfinite.json").exists()


def test_a_gradient_that_is_not_a_number_counts_though_the_loss_is_one():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x, sigma):
            return x + self.weight.sqrt()  # infinite slope at 0

    with pytest.raises(NonFiniteLoss, match="its gradient (inf|nan) at step 2"):
        run(Root(), Settings(steps=5, batch_size=8, max_skipped=1))


def test_what_went_wrong_is_written_down(tmp_path):
    def objective(mu, index, generator):
        target = OBJECTIVE(mu, index, generator)
        target.denoised[index == 7] = float("inf")
        return target

    settings = Settings(steps=20, batch_size=40, max_skipped=0)
    with pytest.raises(NonFiniteLoss, match="nonfinite.json"):
        train(fresh(), objective, POINTS, settings, out=tmp_path, progress=False, device="cpu")
    found = json.loads((tmp_path / "nonfinite.json").read_text())
    assert found["step"] == 1 and found["not_finite"] == [7]
    assert found["indices"] == batch_index(40, 40, 0, 0).tolist()
    assert found["sigma"] == pytest.approx(batch_target(OBJECTIVE, POINTS, 40, 0, 0).sigma.tolist())


def test_accumulated_parts_give_the_gradient_of_the_whole():
    one, parts = fresh(), fresh()
    settings = {**vars(SHORT), "steps": 5, "batch_size": 31}
    run(one, Settings(**settings))
    run(parts, Settings(**{**settings, "accumulate": 4}))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one.parameters(), parts.parameters()))
    assert not same(one, parts)  # it did take another way


def test_half_precision_trains_float32_weights():
    plain, half = fresh(), fresh()
    run(plain, Settings(steps=20, batch_size=32))
    run(half, Settings(steps=20, batch_size=32, precision="bf16"))
    assert all(p.dtype == torch.float32 for p in half.parameters())
    gap = max(float((a - b).detach().abs().max()) for a, b in zip(plain.parameters(), half.parameters()))
    assert 0 < gap < 0.02
    again = fresh()
    run(again, Settings(steps=20, batch_size=32))
    assert same(plain, again)  # the precision of a run does not outlive it
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        run(fresh(), Settings(precision="fp16"))


def test_the_launcher_and_the_settings_must_agree_on_precision(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="asks for bf16, precision=fp32"):
        run(fresh(), Settings(steps=1))


class Forgetful(nn.Module):
    """Uses torch's own random numbers, as dropout does, and has a running statistic."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Dropout(0.5))

    def forward(self, x, sigma):
        return self.layers(x).reshape(x.shape)


def test_dropout_and_running_statistics_resume_bit_equal_and_leave_the_global_generator_alone(tmp_path):
    torch.manual_seed(3)
    whole = Forgetful()
    before = torch.get_rng_state()
    average = run(whole, Settings(steps=9, batch_size=32, checkpoint_every=4, keep=9), out=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    shutil.rmtree(tmp_path / "checkpoint-9")
    shutil.rmtree(tmp_path / "checkpoint-8")
    resumed = Forgetful()
    torch.rand(5)
    again = run(resumed, Settings(steps=9, batch_size=32, checkpoint_every=4, keep=9), out=tmp_path, resume=True)
    assert same(whole, resumed) and same(average, again)
    assert torch.equal(average.layers[2].running_mean, whole.layers[2].running_mean)


def test_skipping_to_a_late_step_costs_nothing(monkeypatch):
    calls, randperm = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: calls.append(1) or randperm(*a, **k))
    batch_index(1000, 64, 10**9, seed=5)
    assert len(calls) <= 2
    batch_index(1000, 64, 10**9 + 1, seed=5)
    assert len(calls) <= 3  # an epoch's order is made once


def test_every_seed_step_and_group_has_noise_of_its_own():
    seeds = {noise_seed(seed, step, group) for seed in range(5) for step in range(20) for group in range(3)}
    assert len(seeds) == 300
    one, other = (batch_target(lambda mu, i, g: OBJECTIVE(0 * mu, i, g), POINTS, 30, 7, seed) for seed in (1, 2))
    assert not torch.equal(one.x, other.x) and not torch.equal(one.sigma, other.sigma)


def test_gradients_are_no_longer_than_the_clip():
    for clip, cut in ((0.01, True), (1e9, False)):
        denoiser = fresh()
        run(denoiser, Settings(steps=1, batch_size=8, clip=clip))
        norm = sum(float(p.grad.square().sum()) for p in denoiser.parameters()) ** 0.5
        assert (norm == pytest.approx(0.01, rel=1e-3)) if cut else norm > 0.1


def test_noise_belongs_to_rows_whoever_draws_them():
    for groups in (1, 3, 4):
        whole = batch_target(OBJECTIVE, POINTS, 30, 7, 1, groups=groups)
        for processes in (1, 2, 4, 7):
            parts = [
                batch_target(OBJECTIVE, POINTS, 30, 7, 1, groups=groups, part=(r, processes)) for r in range(processes)
            ]
            assert torch.equal(torch.cat([p.x for p in parts]), whole.x)
            assert torch.equal(torch.cat([p.sigma for p in parts]), whole.sigma)
    drawn = []

    def counted(mu, index, generator):
        drawn.append(len(mu))
        return OBJECTIVE(mu, index, generator)

    batch_target(counted, POINTS, 30, 7, 1, groups=4, part=(1, 2))
    assert drawn == [8, 7, 7]  # rows 15 to 29 of groups of 8, 8, 7 and 7: what does not reach in is not drawn


def test_learning_rates():
    def rates(kind):
        settings = Settings(steps=110, warmup=10, lr=2.0, lr_schedule=kind)
        return [learning_rate(settings, s) for s in (0, 4, 9, 10, 60, 110)]

    assert rates("constant") == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0, 2.0])
    assert rates("linear") == pytest.approx([0.2, 1.0, 2.0, 2.0, 1.0, 0.0])
    assert rates("cosine") == pytest.approx([0.2, 1.0, 2.0, 2.0, 1.0, 0.0])
    assert learning_rate(Settings(steps=110, warmup=10, lr=2.0, lr_schedule="cosine"), 35) == pytest.approx(
        1 + 0.5**0.5
    )


def test_loss_weights():
    target = batch_target(OBJECTIVE, POINTS, 30, 0, 0)
    s = target.sigma.double()
    assert torch.equal(loss_weight(Settings(), target, 0.3), target.weight)
    edm = loss_weight(Settings(weight="edm"), target, 0.3).double()
    assert torch.allclose(edm, (s**2 + 0.3**2) / (s * 0.3) ** 2, rtol=1e-5)  # arXiv 2206.00364, table 1
    snr = loss_weight(Settings(weight="min-snr", snr_gamma=2.0), target, 0.3).double()
    assert torch.allclose(snr, torch.minimum(1 / s**2, torch.tensor(2.0)), rtol=1e-5)
    assert (snr == 2).any() and (snr < 2).any()
    nets = [fresh() for _ in range(3)]
    for net, weight in zip(nets, ("process", "edm", "min-snr")):
        run(net, Settings(steps=3, batch_size=8, weight=weight))
    assert not same(nets[0], nets[1]) and not same(nets[1], nets[2])


def test_a_monitor_is_asked_recorded_and_obeyed(tmp_path):
    seen = []

    def monitor(step, average):
        seen.append(step)
        return {"memorized_fraction": step / 100, "stop": step == 8}

    settings = Settings(steps=60, batch_size=8, checkpoint_every=20, log_every=5, monitor_every=4)
    run(fresh(), settings, out=tmp_path, monitor=monitor)
    assert seen == [4, 8]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["memorized_fraction"] for row in rows if "memorized_fraction" in row] == [0.04, 0.08]
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-8"]


def test_a_run_that_its_monitor_ended_goes_on_only_if_that_is_asked_for(tmp_path):
    def steps(**changes):
        settings = Settings(steps=12, batch_size=8, monitor_every=4, **changes)
        run(fresh(), settings, out=tmp_path, resume=(tmp_path / "metrics.jsonl").exists(), monitor=monitor)
        return int(next(checkpoints(tmp_path)).name.removeprefix("checkpoint-"))

    monitor = lambda step, average: {"stop": step == 4}  # noqa: E731
    assert steps(on_copying="stop") == 4 == steps(on_copying="stop")
    monitor = None  # nobody looks again
    assert steps(on_copying="advise") == 12
    again = Settings(steps=14, batch_size=8, on_copying="stop")
    run(fresh(), again, out=tmp_path, resume=True)
    assert (tmp_path / "checkpoint-14").is_dir()  # it ended at step 4, and this goes on from 12


def test_a_missing_tracker_is_named():
    with pytest.raises(ValueError, match="tracker=wandb needs.*pip install wandb|tracker must"):
        Settings(tracker="wandb")
    with pytest.raises(ValueError, match="tracker must be one of none, tensorboard"):
        Settings(tracker="wandbb")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"precision": "fp8"}, "precision must be one of fp32, bf16, fp16"),
        ({"weight": "snr"}, "weight must be one of"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"lr": "fast"}, "lr must be a number"),
        ({"steps": True}, "steps must be a whole number"),
        ({"max_skipped": -1}, "max_skipped must be >= 0"),
    ],
)
def test_settings_say_what_they_take(bad, message):
    settings = Settings()
    for name, value in bad.items():
        object.__setattr__(settings, name, value)  # the constructor's own types are checked in tests only
    with pytest.raises(ValueError, match=message):
        settings.__post_init__()


def test_large_seeds_are_seeds():
    assert batch_index(10, 4, 3, 1 << 60).tolist() != batch_index(10, 4, 3, 1).tolist()
    assert 0 <= noise_seed(1 << 62, 5) < 1 << 63
