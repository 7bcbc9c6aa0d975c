import io
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from temperance.data import Images, load, split
from temperance.engine import EmpiricalDenoiser
from temperance.features import Dct, Function, LowRes, PHash, Pixels, by_name
from temperance.guard import Guard, Thresholds
from temperance.sample import FRESH, Noise, heun, integrate
from temperance.schedule import Edm


@cache
def digits():
    return split(load("digits", progress=False), (300, 600, 600), 0)


@cache
def drawings():
    """Color pictures on white, as emoji are: some filled shapes each, no two alike."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        image = Image.new("RGB", (24, 24), "white")
        pen = ImageDraw.Draw(image)
        for _ in range(rng.integers(2, 5)):
            (x, y), (w, h) = rng.integers(1, 14, 2).tolist(), rng.integers(4, 11, 2).tolist()
            color = tuple(rng.integers(0, 255, 3).tolist())
            (pen.ellipse if rng.random() < 0.5 else pen.rectangle)([x, y, x + w, y + h], fill=color)
        found.append(np.asarray(image))
    return split(Images(np.stack(found)), (100, 200, 100), 0)


SETS = {"digits": digits, "drawings": drawings}


@cache
def guard(name):
    train, heldout, _ = SETS[name]()
    return Guard.calibrate(train, heldout, rate=0.02)


def jpeg(pixels, quality):
    out = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image.squeeze()).save(file, "JPEG", quality=quality)
        out.append(np.asarray(Image.open(file)).reshape(image.shape))
    return np.stack(out)


def moved(pixels, dx, dy):
    padded = np.pad(pixels, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    return np.roll(padded, (dy, dx), (1, 2))[:, 2:-2, 2:-2]


def flipped(pixels):
    return np.ascontiguousarray(pixels[:, :, ::-1])


COPIES = {
    "exact": lambda p: p,
    "flipped": flipped,
    "right 1": lambda p: moved(p, 1, 0),
    "left up 2": lambda p: moved(p, -2, -2),
    "flipped, down 2": lambda p: moved(flipped(p), 0, 2),
    "jpeg 90": lambda p: jpeg(p, 90),
    "jpeg 50": lambda p: jpeg(p, 50),
    "flipped, jpeg 75": lambda p: jpeg(flipped(p), 75),
}


# ---- what it finds, and what it lets through ----


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", COPIES)
def test_planted_copies_are_found_and_named(name, kind):
    train = SETS[name]()[0][:40]
    verdict = guard(name).look(Images(COPIES[kind](train.pixels)).tensor())
    assert float(verdict.refused.float().mean()) >= 0.95
    assert float((verdict.index == torch.arange(40)).float().mean()) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_new_images_are_refused_no_more_often_than_stated(name):
    fresh = SETS[name]()[2]
    refused = float(guard(name).look(fresh.tensor()).refused.float().mean())
    assert refused <= 0.02 + 3 * (0.02 / len(fresh)) ** 0.5


def test_the_threshold_is_the_conformal_quantile():
    train, heldout, _ = digits()
    made = Guard.calibrate(train, heldout[:99], rate=0.05, shift=0)
    near = made.nearest(heldout[:99].tensor())[0].distance.sort().values
    assert made.threshold == Thresholds(float(near[4]))
    refused = made.look(heldout[:99].tensor()).refused
    assert int(refused.sum()) == 4


def test_too_few_heldout_images_are_refused_with_the_number_needed():
    train, heldout, _ = digits()
    with pytest.raises(ValueError, match="98 images.*0.01 needs at least 99"):
        Guard.calibrate(train, heldout[:98], rate=0.01, shift=0)
    with pytest.raises(ValueError, match="at least 199"):
        Guard.calibrate(train, heldout[:98], rate=0.01)


def test_leaked_held_out_images_do_not_lower_the_threshold():
    """Training images among the held-out ones, also mirrored, are not unseen: the guard is that of the others."""
    train, heldout, _ = digits()
    clean = Guard.calibrate(train, heldout[:199], rate=0.05)
    leaked = np.concatenate([train.pixels[:20], flipped(train.pixels[20:40]), heldout.pixels[:199]])
    made = Guard.calibrate(train, Images(leaked), rate=0.05)
    assert made.threshold == clean.threshold and min(made.threshold) > 0
    near = (train[:50].tensor() + 0.02 * torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))) * 0.99
    assert made.look(near).refused.all()
    with pytest.raises(ValueError, match="holds 0 images beside 40 of the training set"):
        Guard.calibrate(train, Images(leaked[:40]), rate=0.05)


def test_a_space_that_tells_nothing_apart_is_refused():
    """Where held-out images lie on training images without being them, no distance tells a copy from a new image."""
    train, heldout, _ = digits()
    with pytest.raises(ValueError, match="use another one, larger images, or shift 0"):
        Guard.calibrate(train, heldout, by_name("lowres"), rate=0.05)
    with pytest.raises(ValueError, match="lie on training images in blank"):
        Guard.calibrate(train, heldout, Function(lambda x: torch.ones(len(x), 3), "blank"), rate=0.05)


def test_without_a_threshold_it_is_the_rule_of_d1_over_d2():
    train, _, fresh = digits()
    open_ = Guard(train)
    assert not open_.look(fresh[:50].tensor()).refused.any()
    points = train.tensor()
    between = 0.97 * points[:5] + 0.03 * points[5:10]
    assert open_.look(between).refused.all() and open_.look(points[:5].flip(-1)).refused.all()


def test_repeated_training_images_do_not_hide_copies_from_the_rule():
    train = digits()[0][:40]
    twice = Images(np.concatenate([train.pixels, train.pixels]))
    between = 0.97 * train[:5].tensor() + 0.03 * train[5:10].tensor()
    assert Guard(twice).look(between).refused.all()


@pytest.mark.parametrize("blank", ["all", "middle"])
def test_held_out_images_on_training_images_are_refused_whole_or_in_their_middle(blank):
    """Where only borders differ, every middle lies on another one: no distance tells a shifted copy."""
    train, heldout, _ = (Images(part.pixels.copy()) for part in digits())
    for images in (train, heldout):
        images.pixels[:, 2:6, 2:6] = 0
    encoder = Function(lambda x: torch.ones(len(x), 3), "blank") if blank == "all" else None
    with pytest.raises(ValueError, match="lie on training images in"):
        Guard.calibrate(train, heldout[:199], encoder, rate=0.05)


def test_a_number_is_a_threshold_of_whole_images_alone():
    """Another image with the same middle is no copy."""
    train = digits()[0]
    other = train[:4].tensor()
    other[..., [0, 7]] = 1 - other[..., [0, 7]].abs()
    verdict = Guard(train, threshold=0.5).look(other)
    assert (verdict.closeness > 1).all() and not verdict.refused.any()


def test_an_exact_copy_is_known_by_its_hash_alone():
    """Whatever the threshold is."""
    train, *_ = digits()
    made = Guard(train, threshold=0.0)
    assert made.look(train[:4].tensor()).refused.all()
    assert not made.look(train[:4].tensor() * 0.9).refused.any()


# ---- drawing ----


def tables(train):
    """Two generators: attempt 0 copies, and later ones are given pictures that are new."""
    new = digits()[2].tensor()

    def draw(stream, project=None):
        copies = torch.tensor([i < FRESH and i % 2 == 0 for i in stream])
        index = torch.tensor(stream) % 100
        return torch.where(copies[:, None, None, None], train.tensor()[index], new[index])

    return draw


def test_refused_images_are_drawn_again_from_fresh_noise():
    train, *_ = digits()
    got = guard("digits").draw(tables(train), range(10))
    assert got.passed.all() and got.refused >= 5
    assert [s < FRESH for s in got.stream] == [bool(i % 2) for i in range(10)]
    assert not guard("digits").look(got.x).refused.any()


def test_an_image_does_not_depend_on_those_it_is_drawn_with():
    train, *_ = digits()
    whole, part = (guard("digits").draw(tables(train), index) for index in (range(10), [4, 7]))
    assert torch.equal(part.x, whole.x[[4, 7]])


def test_attempts_have_noise_of_their_own():
    """torch's CPU generator takes the low 32 bits of a seed only: indices a power of two apart would repeat it."""
    noise = Noise(0, [7 + attempt * FRESH for attempt in range(40)]).normal((64,))
    assert float((noise @ noise.T / 64).fill_diagonal_(0).abs().max()) < 0.8


def test_it_gives_up_after_its_attempts():
    train, *_ = digits()
    calls = []

    def draw(stream):
        calls.append(len(stream))
        return train.tensor()[: len(stream)]

    got = guard("digits").draw(draw, range(3), attempts=4)
    assert calls == [3] * 4 and not got.passed.any() and got.refused == 12
    with pytest.raises(ValueError, match="attempts"):
        guard("digits").draw(draw, range(3), attempts=0)


def test_one_step_leads_just_beyond_the_threshold():
    train, _, fresh = digits()
    made = Guard(train, threshold=1.0, shift=0)
    x = torch.cat([0.97 * train[:3].tensor() + 0.03 * fresh[:3].tensor(), fresh[3:5].tensor()])
    moved_ = made.away(x)
    assert made.look(x).refused.tolist() == [True] * 3 + [False] * 2
    assert made.look(moved_).closeness[:3].tolist() == pytest.approx([1.02] * 3, abs=1e-3)
    assert torch.equal(moved_[3:], x[3:])
    with pytest.raises(ValueError, match="calibrate"):
        Guard(train).away(x)


def test_one_step_leads_a_moved_copy_beyond_the_threshold_of_middles():
    train, *_ = drawings()
    made = Guard(train, threshold=Thresholds(0.5, 5.0))
    x = 0.9 * Images(moved(train.pixels[:4], 2, 1)).tensor()
    assert all(made.views[v].inner for v in made.look(x).view.tolist()) and made.look(x).refused.all()
    assert made.look(made.away(x)).closeness.tolist() == pytest.approx([1.02] * 4, abs=0.01)


def test_a_guided_sampler_leaves_the_training_points():
    """The empirical denoiser only copies: guided, most samples end beyond the threshold, and the rest is marked.

    Not all: what is guided out of [-1, 1] is clipped back.
    """
    train = digits()[0][:20]
    made = Guard(train, threshold=1.0, shift=0)
    denoiser = EmpiricalDenoiser(train.tensor())
    grid = Edm(0.1, 20.0).grid(12)

    def draw(stream, project=None):
        return integrate(heun, denoiser, (1, 8, 8), grid, Noise(0, stream), project=project).x

    plain, guided = (made.draw(draw, range(6), attempts=2, guide=g) for g in (False, True))
    assert not plain.passed.any() and int(guided.passed.sum()) >= 4
    assert torch.equal(guided.passed, ~made.look(guided.x).refused)
    assert guided.stream == list(range(6))  # from the same noise


# ---- without the images ----


class Coarse:
    name = "coarse"

    def __call__(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


def test_an_index_judges_as_its_guard_does_and_holds_no_images(tmp_path):
    train, heldout, fresh = digits()
    made = Guard.calibrate(train, heldout, Coarse(), rate=0.02)
    made.save(tmp_path / "guard.safetensors")
    back = Guard.load(tmp_path / "guard.safetensors", Coarse())
    x = torch.cat([train[:20].tensor(), fresh[:20].tensor()])
    for a, b in zip(made.look(x), back.look(x)):
        assert torch.equal(a, b)
    assert (back.threshold, back.rate, back.index.shape) == (made.threshold, 0.02, (1, 8, 8))
    assert back.look(x).refused[:20].all()
    blob = (tmp_path / "guard.safetensors").read_bytes()
    pixels = train.tensor()
    assert not any(p.numpy().tobytes() in blob for p in pixels[:20])
    assert not any(p.tobytes() in blob for p in train.pixels[:20])


@pytest.mark.parametrize("space", [Pixels(), LowRes(4), Dct()])
def test_an_index_of_pictures_is_not_written(tmp_path, space):
    with pytest.raises(ValueError, match="training images themselves, or small versions"):
        Guard(digits()[0], space, 0.1).save(tmp_path / "g")
    assert not list(tmp_path.iterdir())


def test_a_guard_is_calibrated_on_images_of_its_own_shape():
    train, heldout, _ = digits()
    other = Images(heldout.pixels.repeat(3, 3))
    for known in (train, Guard(train, Dct(), 0.1).index):
        with pytest.raises(ValueError, match=r"held-out images are \(3, 8, 8\), the guard's \(1, 8, 8\); set --size"):
            Guard.calibrate(known, other, Dct())


def test_only_encoders_with_a_gradient_lead_away():
    train = digits()[0]
    assert Guard(train, Dct(), 0.1).leads_away and Guard(train, Coarse(), 0.1).leads_away
    assert not Guard(train, PHash(), 0.1).leads_away and not Guard(train, Dct()).leads_away


def test_what_does_not_fit_is_refused(tmp_path):
    train, heldout, _ = digits()
    made = Guard(train, Coarse(), 0.1)
    made.save(tmp_path / "g")
    with pytest.raises(ValueError, match="made with coarse, got encoder pixels"):
        Guard(made.index)
    with pytest.raises(ValueError, match="unknown encoder 'coarse'"):
        Guard.load(tmp_path / "g")
    (tmp_path / "bad").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a saved guard"):
        Guard.load(tmp_path / "bad")
    with pytest.raises(ValueError, match=r"images must be \(1, 8, 8\)"):
        made.look(torch.zeros(2, 1, 9, 9))
    with pytest.raises(ValueError, match="at least 2 training images"):
        Guard(train[:1])
    with pytest.raises(ValueError, match="4x4 of 8x8"):
        Guard(train, shift=3)
    with pytest.raises(ValueError, match="threshold"):
        Guard(train, threshold=-1.0)
    with pytest.raises(ValueError, match="rate"):
        Guard.calibrate(train, heldout, rate=1.0)


def test_what_a_sampler_leaves_out_of_range_is_judged_as_it_is_written():
    train, *_ = drawings()
    image = train.tensor()[:1]
    over = torch.where(image == 1, image + 0.5, image)  # a background brighter than white
    over[0, :, 8:16, 8:16] *= 0.95  # not an exact copy
    for judge in (Guard(train, shift=0), guard("drawings")):
        assert torch.equal(judge.look(over).closeness, judge.look(over.clamp(-1, 1)).closeness)
        assert judge.look(over).refused.all()
    far = guard("drawings").away(over)
    assert float(guard("drawings").look(far).closeness) > float(guard("drawings").look(over).closeness)


def test_more_attempts_than_there_is_noise_for_are_refused():
    with pytest.raises(ValueError, match="between 1 and 16, got 17"):
        guard("digits").draw(lambda stream: torch.zeros(len(stream), 1, 8, 8), [0], attempts=17)
