"""The streaming metric: the figures of all images at once, however they came."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temperance import metrics as tm
from temperance.auditing import as_json, audit
from temperance.data import Images, InputWarning, to_uint8
from temperance.features import LowRes
from temperance.streaming import CopyMetric


def images(n, seed):
    return torch.randint(0, 256, (n, 1, 4, 4), generator=torch.Generator().manual_seed(seed)).float() / 127.5 - 1


TRAIN, HELDOUT = images(50, 0), images(40, 1)
GENERATED = torch.cat([TRAIN[:6], images(30, 2)])


def whole(generated=GENERATED):
    rows, train = generated.flatten(1), TRAIN.flatten(1)
    near, null = tm.proximity(rows, train), tm.proximity(HELDOUT.flatten(1), train)
    spacing = tm.proximity(train, train).second
    return {
        m.name: m
        for m in (
            tm.memorized_fraction(near, null),
            tm.ratio_median(near, null),
            tm.authpct(near, spacing, null),
            tm.memorized_adaptive(near, null),
            tm.copy_auc(near.distance, null.distance),
            tm.ct_score(near.distance, null.distance),
        )
    }


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(36)), st.lists(st.integers(0, 36), max_size=5))
def test_equals_the_figures_of_all_images_at_once_in_any_order_and_batches(order, cuts):
    metric = CopyMetric(TRAIN, HELDOUT)
    ends = [0, *sorted(cuts), 36]
    for start, end in zip(ends, ends[1:]):
        metric.update(GENERATED[order][start:end])
    assert len(metric) == 36
    assert metric.measurements() == whole()


def test_it_equals_the_audit():
    report = audit(*(Images(to_uint8(x)) for x in (TRAIN, GENERATED, HELDOUT)))
    found = CopyMetric(TRAIN, HELDOUT).update(GENERATED[:20]).update(GENERATED[20:]).measurements()
    assert found == {name: report.measurements["pixels"][name] for name in found}
    assert set(found) <= set(as_json(report)["encoders"]["pixels"])


def test_compute_gives_scalars_that_a_logger_takes():
    found = CopyMetric(TRAIN, HELDOUT).update(GENERATED).compute()
    assert all(v.shape == () and v.dtype == torch.float64 for v in found.values())
    assert found["memorized_fraction"].item() == whole()["memorized_fraction"].value >= 6 / 36


def test_forward_is_this_batch_and_counts_it():
    metric = CopyMetric(TRAIN, HELDOUT)
    first, second = metric(GENERATED[:6]), metric(GENERATED[6:])
    assert first["memorized_fraction"] == 1 and second["memorized_fraction"] < 0.2
    assert metric.measurements() == whole()


def test_reset_merge_and_state():
    a, b = CopyMetric(TRAIN, HELDOUT).update(GENERATED[:10]), CopyMetric(TRAIN, HELDOUT).update(GENERATED[10:])
    assert a.merge(b).measurements() == whole()
    again = CopyMetric(TRAIN, HELDOUT).load_state_dict(a.state_dict())
    assert again.measurements() == whole()
    assert a.sync() is a and a.measurements() == whole()  # no process group: nothing to do
    with pytest.raises(ValueError, match="no images since the last reset"):
        a.reset().compute()
    assert len(a) == 0 and a.update(GENERATED[:0]).update(GENERATED).measurements() == whole()
    with pytest.raises(ValueError, match="another training set or encoder"):
        a.merge(CopyMetric(HELDOUT))
    with pytest.raises(ValueError, match="another training set or encoder"):
        a.merge(CopyMetric(TRAIN, encoder=LowRes()))


def test_without_heldout_there_is_no_null():
    found = CopyMetric(TRAIN).update(GENERATED).measurements()
    assert set(found) == {"memorized_fraction", "ratio_median", "authpct"}
    assert all(m.null is None for m in found.values())
    assert found["authpct"].value == whole()["authpct"].value


def test_an_encoder_and_duplicates_are_used():
    doubled = torch.cat([TRAIN, TRAIN + 1e-3])
    plain, grouped = CopyMetric(doubled), CopyMetric(doubled, duplicate_radius=0.1)
    assert plain.update(TRAIN + 6e-4).compute()["memorized_fraction"] == 0
    assert grouped.update(TRAIN + 6e-4).compute()["memorized_fraction"] == 1
    coarse = CopyMetric(TRAIN, encoder=LowRes(2)).update(TRAIN.flip(-1).flip(-1)).compute()
    assert coarse["memorized_fraction"] == 1


def test_training_goes_on_around_it():
    x = GENERATED.clone().requires_grad_()
    CopyMetric(TRAIN).update(x).compute()
    (x * 2).sum().backward()
    assert x.grad is not None


RANK = """
import sys, torch, torch.distributed as dist
from temperance.streaming import CopyMetric
rank = int(sys.argv[1])
TRAIN, HELDOUT, GENERATED = torch.randn(3, 36, 1, 4, 4, generator=torch.Generator().manual_seed(0))
GENERATED = torch.cat([TRAIN[:6], GENERATED[:30]])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
mine = GENERATED[:29] if rank == 0 else GENERATED[29:]
whole = CopyMetric(TRAIN, HELDOUT).update(GENERATED).measurements()
assert CopyMetric(TRAIN, HELDOUT).update(mine).sync().measurements() == whole
assert len(CopyMetric(TRAIN).update(mine if rank else mine[:0]).sync()) == 7
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_agree_after_sync(tmp_path):
    calls = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path / "store")], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for call in calls:
        _, err = call.communicate(timeout=120)
        assert call.returncode == 0, err.decode()[-2000:]


def test_images_that_cannot_be_in_range_are_refused_and_those_of_half_of_it_told_of():
    """Held against training images in [-1, 1], copies in [0, 1] would lie far from everything."""
    stored = ((GENERATED + 1) * 127.5).round()
    with pytest.raises(ValueError, match="got 0 to 255"):
        CopyMetric(TRAIN).update(stored)
    for wrong, said in ((stored.to(torch.uint8), "got uint8"), (stored, "got 0 to 255")):
        with pytest.raises(ValueError, match=said):
            audit(TRAIN, wrong, HELDOUT)
    with pytest.warns(InputWarning, match=r"no value is below 0.* take 2 x - 1"):
        CopyMetric(TRAIN).update((GENERATED + 1) / 2)
    with pytest.warns(InputWarning, match=r"generated: no value is below 0"):
        audit(TRAIN, (GENERATED + 1) / 2, HELDOUT)


def test_a_training_set_of_one_image_is_refused_at_once():
    with pytest.raises(ValueError, match="1 distinct image among 5"):
        CopyMetric(TRAIN[:1].repeat(5, 1, 1, 1))


def test_samples_beyond_the_range_are_cut_as_saving_them_would():
    x = TRAIN[:20] + 0.4 * (TRAIN[:20] <= -0.9) * torch.linspace(-1, 0, 16).reshape(4, 4)
    cut, whole = (CopyMetric(TRAIN).update(images).compute() for images in (x.clamp(-1, 1), x))
    assert float((x - x.clamp(-1, 1)).abs().max()) > 0 and cut == whole


def test_a_held_out_set_of_nothing_is_refused():
    with pytest.raises(ValueError, match="heldout holds no images"):
        CopyMetric(TRAIN, TRAIN[:0])


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"must be \(1, 4, 4\)"):
        CopyMetric(TRAIN).update(TRAIN.reshape(-1, 1, 2, 8))
