"""The membership test: blind where nothing was learned by heart, sharp where everything was."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from temperance.empirical import denoise, noise_conditional
from temperance.membership import SIGMAS, membership


def images(n, seed=0, c=1, side=4):
    return torch.rand(n, c, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


TRAIN, HELDOUT = images(60), images(80, 1)


def by_heart(x, sigma):
    """The empirical denoiser: it knows the training images and nothing else."""
    rows = TRAIN.flatten(1)
    flat = x.flatten(1)
    posterior = noise_conditional(flat, rows, sigma)
    return denoise(posterior, rows).reshape(x.shape).to(x)


def shrink(x, sigma):
    """The best linear denoiser of the source: it has seen no image at all."""
    return x / (1 + 3 * sigma[:, None, None, None] ** 2)


def test_a_model_that_knows_only_its_training_set_gives_it_away():
    found = membership(by_heart, TRAIN, HELDOUT)
    assert found.auc.value > 0.95 and found.auc.low > 0.9 and found.auc.null == 0.5
    assert found.tpr.value > 0.5 and found.tpr.n == 60
    small = {m.name: m.value for m in found.levels}
    assert small["residual at 0.1"] == 1  # the empirical denoiser returns a training image unchanged


def test_a_model_that_saw_nothing_gives_nothing_away():
    found = membership(shrink, images(400, 2), images(500, 3))
    assert found.auc.low <= 0.5 <= found.auc.high
    assert found.tpr.low <= 0.01 + 1e-9 and found.tpr.value < 0.05
    assert found.tpr.null == pytest.approx(6 / 501)


def test_scores_are_the_stated_formula():
    found = membership(shrink, TRAIN, HELDOUT, sigmas=(0.5, 2.0), seed=7)
    g = torch.Generator().manual_seed(7)
    eps = [torch.randn(1, 4, 4, generator=g) for _ in range(2)]

    def rms(x, sigma, noise):
        got = (x + noise) / (1 + 3 * sigma**2)
        return np.array([float((a - b).square().mean().sqrt()) for a, b in zip(got, x)])

    label = [1] * 60 + [0] * 80
    total = 0
    for (sigma, noise), at in zip(zip((0.5, 2.0), eps), (0, 2)):
        loss = np.concatenate([rms(x, sigma, sigma * noise) for x in (TRAIN, HELDOUT)])
        residual = np.concatenate([rms(x, sigma, 0 * noise) for x in (TRAIN, HELDOUT)])
        assert found.levels[at].value == pytest.approx(roc_auc_score(label, -loss), abs=1e-3)
        assert found.levels[at + 1].value == pytest.approx(roc_auc_score(label, -residual), abs=1e-3)
        total = total + np.log(loss)
    assert found.auc.value == pytest.approx(roc_auc_score(label, -total), abs=1e-3)
    threshold = np.sort(total[60:])[0]  # of 80 held-out images none may pass at 1 %
    assert found.tpr.value == pytest.approx(np.mean(total[:60] < threshold), abs=0.02)
    assert found.tpr.null == 1 / 81  # how often a further unseen image is below all 80


def test_result_depends_neither_on_batches_nor_on_order():
    whole = membership(by_heart, TRAIN, HELDOUT)
    part = membership(by_heart, TRAIN.flip(0), HELDOUT.flip(0), batch_size=7)
    assert part.auc.value == pytest.approx(whole.auc.value)
    assert part.tpr.value == pytest.approx(whole.tpr.value)


def test_global_randomness_is_left_alone():
    before = torch.get_rng_state()
    membership(shrink, TRAIN, HELDOUT)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_level_is_named():
    found = membership(shrink, TRAIN, HELDOUT).measurements
    assert all(m.low <= m.value <= m.high for m in found)
    assert [m.name for m in found][:2] == ["membership_auc", "membership_tpr"]
    assert [m.name for m in found][2:] == [f"{k} at {s:g}" for s in SIGMAS for k in ("loss", "residual")]


@pytest.mark.parametrize(
    ("train", "heldout", "more", "words"),
    [
        (TRAIN[:0], HELDOUT, {}, "images of one shape"),
        (TRAIN, images(5, side=5), {}, "images of one shape"),
        (TRAIN, HELDOUT, {"sigmas": (0.1, 0.0)}, "sigmas must be positive, got"),
        (TRAIN * torch.nan, HELDOUT, {}, "non-finite"),
    ],
)
def test_bad_input_is_one_line(train, heldout, more, words):
    with pytest.raises(ValueError, match=words):
        membership(shrink, train, heldout, **more)


# ---- in a report


def small_run(folder, told):
    from temperance import hub
    from temperance.schedule import edm_for

    points = TRAIN
    network = hub.new_network("mlp", (1, 4, 4), told=told, seed=0)
    schedule = edm_for(points.flatten(1))
    model = hub.Model(hub.new_denoiser(network, points, told=told), schedule, (1, 4, 4), {})
    hub.save(folder, model)


def test_repeats_in_the_training_set_do_not_narrow_the_test(tmp_path):
    """A model that leaks nothing, every member ten times: what counts is how many different ones there are."""
    from temperance.auditing import audit, denoiser_of
    from temperance.data import Images, to_uint8

    train, heldout = (Images(to_uint8(x)) for x in (TRAIN, HELDOUT))
    small_run(tmp_path / "model", True)
    model = denoiser_of(tmp_path / "model", train)
    once, tenfold = (
        audit(t, heldout, heldout, model=model) for t in (train, Images(np.tile(train.pixels, (10, 1, 1, 1))))
    )
    assert once.membership == tenfold.membership


@pytest.mark.parametrize("told", [True, False])
def test_an_untrained_model_in_an_audit_gives_nothing_away(tmp_path, told):
    from temperance.auditing import as_json, audit, denoiser_of
    from temperance.data import Images, InputWarning, to_uint8
    from temperance.report import audit_page, html

    train, heldout = (Images(to_uint8(x)) for x in (TRAIN, HELDOUT))
    small_run(tmp_path / "model", told)
    report = audit(train, heldout, heldout, model=denoiser_of(tmp_path / "model", train))
    found = as_json(report)["membership"]
    assert found["auc_ci"][0] <= 0.5 <= found["auc_ci"][1]
    assert 0 <= found["tpr_at_1_fpr"] <= found["tpr_ci"][1] and len(found["levels"]) == 2 * len(SIGMAS)
    assert as_json(audit(train, heldout, heldout))["membership"] is None
    text = html(audit_page(report))
    assert "Membership test" in text and "Membership" not in html(audit_page(audit(train, heldout, heldout)))
    with pytest.raises(ValueError, match="give held-out images with the model"):
        audit(train, heldout, model=denoiser_of(tmp_path / "model", train))
    with pytest.raises(ValueError, match=r"makes images of \(channels, height, width\) \(1, 4, 4\) and train holds"):
        denoiser_of(tmp_path / "model", Images(np.zeros((3, 5, 5, 1), np.uint8)))
    (tmp_path / "env.json").write_text(f'{{"train_sha256": "{train.fingerprint}"}}')
    denoiser_of(tmp_path, train)
    with pytest.warns(InputWarning, match="was trained on other images than"):
        denoiser_of(tmp_path, heldout)
