"""Encoders: known features, determinism, independence of batches, and a cache that is right or not used."""

import pytest
import torch

from temperance.data import load
from temperance.features import (
    Classifier,
    Dct,
    Encoder,
    LowRes,
    PHash,
    Pixels,
    by_name,
    encode,
    train_classifier,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(digits):
    x, y = digits
    return train_classifier(x[:500], y[:500], seed=3, steps=120)


class Counting:
    """Pixels that count how often they were asked."""

    name = "counting/odd name"

    def __init__(self):
        self.calls = 0

    def __call__(self, images):
        self.calls += 1
        return images.flatten(1)


def test_pixels_are_the_images(digits):
    x, _ = digits
    assert isinstance(Pixels(), Encoder)
    assert torch.equal(encode(Pixels(), x), x.reshape(len(x), -1))


# ---- the classifier


def test_classifier_learns_and_generalizes(digits, trained):
    x, y = digits
    assert isinstance(trained, Encoder) and trained.train_accuracy > 0.98 and trained.classes == tuple(range(10))
    guess = trained.logits(x).argmax(1)
    assert trained.train_accuracy == pytest.approx(float((guess[:500] == y[:500]).float().mean()))
    assert float((guess[500:] == y[500:]).float().mean()) > 0.85


def test_classifier_features_suit_a_frechet_distance(digits, trained):
    x, y = digits
    f = encode(trained, x)
    assert f.shape == (700, 64) and f.dtype == torch.float32 and not f.requires_grad
    spread = torch.linalg.eigvalsh(f.T.double().cov())
    assert spread[0] > 1e-6 * spread[-1]  # full rank: no dead feature
    near = torch.cdist(f, f).fill_diagonal_(torch.inf).argmin(1)
    assert float((y[near] == y).float().mean()) > 0.9


def test_classifier_is_deterministic_and_leaves_the_global_generator_alone(digits):
    x, y = digits
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a = train_classifier(x[:100], y[:100], seed=1, steps=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    b = train_classifier(x[:100], y[:100], seed=1, steps=3)
    c = train_classifier(x[:100], y[:100], seed=2, steps=3)
    assert a.name == b.name != c.name
    assert torch.equal(encode(a, x), encode(b, x)) and not torch.equal(encode(a, x), encode(c, x))


def test_classifier_without_steps_is_a_random_encoder(digits):
    x, y = digits
    assert train_classifier(x[:50], y[:50], steps=0).train_accuracy < 0.6


def test_classifier_takes_any_labels_and_shapes():
    x = torch.randn(30, 3, 20, 12, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    y = torch.tensor([-7, 40]).repeat(15)
    x[y == 40, 0] = 1
    classifier = train_classifier(x, y, steps=30)
    assert classifier.classes == (-7, 40) and classifier.shape == (3, 20, 12)
    assert classifier.train_accuracy == 1 and encode(classifier, x).shape == (30, 64)
    with pytest.raises(ValueError, match="trained on images"):
        classifier(x[:, :1])


def test_classifier_needs_two_classes(digits):
    x, y = digits
    with pytest.raises(ValueError, match="at least two classes, got 1"):
        train_classifier(x[y == 3], y[y == 3], steps=1)


def test_classifier_survives_a_round_trip(digits, trained, tmp_path):
    x, _ = digits
    trained.save(tmp_path / "deep" / "c.safetensors")
    again = Classifier.load(tmp_path / "deep" / "c.safetensors")
    assert (again.name, again.shape, again.classes) == (trained.name, trained.shape, trained.classes)
    assert again.train_accuracy == trained.train_accuracy
    assert torch.equal(encode(again, x), encode(trained, x))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["c.safetensors"]


def test_classifier_refuses_other_files(tmp_path):
    (tmp_path / "c").write_bytes(b"junk")
    for path in (tmp_path / "c", tmp_path / "absent"):
        with pytest.raises(ValueError, match="not a saved classifier"):
            Classifier.load(path)


# ---- encode


def test_result_does_not_depend_on_the_batch_size(digits, trained):
    """To the last bit: a copy lies on its source also where it is one of few."""
    x, _ = digits
    whole = encode(trained, x[:50])
    assert torch.equal(encode(trained, x[:50], batch_size=7), whole)
    assert torch.equal(encode(trained, x[49:50]), whole[49:])


def test_features_may_enter_autograd(digits, trained):
    f = encode(trained, digits[0][:4])
    w = torch.ones(64, requires_grad=True)
    (f @ w).sum().backward()
    assert torch.allclose(w.grad, f.sum(0))


def test_cache_is_used_and_keyed_by_encoder_and_content(digits, tmp_path):
    x = digits[0][:20]
    encoder = Counting()
    first = encode(encoder, x, cache=tmp_path / "cache")
    again = encode(encoder, x, batch_size=3, cache=tmp_path / "cache")
    assert encoder.calls == 1 and torch.equal(first, again)
    changed = x.clone()
    changed[7, 0, 3, 3] += 0.01
    assert torch.equal(encode(encoder, changed, cache=tmp_path / "cache"), changed.flatten(1)) and encoder.calls == 2
    encode(encoder, x.reshape(20, 1, 4, 16), cache=tmp_path / "cache")
    assert encoder.calls == 3
    encode(Pixels(), x, cache=tmp_path / "cache")
    files = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert len(files) == 4 and all(name.endswith(".safetensors") for name in files)
    assert sum(name.startswith("counting_odd_name-") for name in files) == 3


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_a_damaged_cache_file_is_made_again(digits, tmp_path, content):
    x = digits[0][:5]
    encoder = Counting()
    encode(encoder, x, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-8] if content is None else content)
    assert torch.equal(encode(encoder, x, cache=tmp_path), x.flatten(1)) and encoder.calls == 2
    encode(encoder, x, cache=tmp_path)
    assert encoder.calls == 2


def test_encode_refuses_nothing_and_nonsense(digits):
    x = digits[0][:5]
    with pytest.raises(ValueError, match="at least 1"):
        encode(Pixels(), x[:0])
    with pytest.raises(ValueError, match="at least 1"):
        encode(Pixels(), x, batch_size=0)

    class Broken(Counting):
        def __call__(self, images):
            return super().__call__(images) / 0

    with pytest.raises(ValueError, match="finite row"):
        encode(Broken(), x)


def test_an_unwritable_cache_is_one_line(digits, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot write"):
        encode(Pixels(), digits[0][:5], cache=tmp_path / "file")


def test_progress_goes_to_stderr(digits, capsys):
    encode(Pixels(), digits[0][:5], batch_size=2, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "encoding (pixels)" in err


# ---- names and efficientnet


def test_by_name():
    for name in ("pixels", "lowres", "dct", "phash"):
        assert by_name(name).name == name
    with pytest.raises(ValueError, match="did you mean pixels"):
        by_name("pixel")
    with pytest.raises(ValueError, match="expected pixels, lowres, .* or inception:PATH; use one of these"):
        by_name("zzz")
    with pytest.raises(ValueError, match="did you mean torchscript:PATH"):
        by_name("torchscrip:a.pt")
    for kind in ("torchscript", "inception", "transformers", "classifier"):
        with pytest.raises(ValueError, match=f"the encoder {kind} needs a path: {kind}:PATH"):
            by_name(kind)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("inception:none.pt", "get inception-2015-12-05.pt .* its sha256 must be f58cb9b6ec323ed6"),
        ("torchscript:none.pt", "torch.jit.trace"),
        ("transformers:none", "config.json, preprocessor_config.json and model.safetensors"),
    ],
)
def test_a_missing_file_says_what_to_get_and_that_nothing_is_fetched(name, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("a connection was tried"))
    with pytest.raises(ValueError, match=words) as error:
        by_name(name)
    assert "Nothing is ever downloaded" in str(error.value) and "\n" not in str(error.value)


# ---- low resolution and frequencies


def test_lowres_is_the_mean_of_blocks(digits):
    x = torch.rand(3, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    blocks = x.reshape(3, 2, 8, 2, 8, 3).mean((3, 5)).flatten(1)
    torch.testing.assert_close(encode(LowRes(), x), blocks)
    assert torch.equal(encode(LowRes(), digits[0][:4]), digits[0][:4].flatten(1))  # 8x8 stays itself
    assert LowRes(16).name == "lowres16" != LowRes().name


def test_dct_agrees_with_scipy_and_forgets_brightness():
    from scipy.fft import dctn

    x = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 1.5 - 1
    expected = dctn(x[:, 0].double().numpy(), axes=(1, 2), norm="ortho")[:, :8, :8].reshape(3, 64)[:, 1:]
    got = encode(Dct(), x)
    torch.testing.assert_close(got.double(), torch.from_numpy(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(encode(Dct(), x + 0.3), got, atol=1e-5, rtol=0)
    torch.testing.assert_close(encode(Dct(), x.repeat(1, 3, 1, 1)), got, atol=1e-5, rtol=0)


def test_phash_is_64_bits_half_of_them_set():
    x = torch.rand(5, 3, 20, 28, generator=torch.Generator().manual_seed(0))
    bits = encode(PHash(), x)
    assert bits.shape == (5, 64) and set(bits.unique().tolist()) == {0, 1}
    assert bits.sum(1).tolist() == [32] * 5
    brighter = encode(PHash(), 0.9 * x + 0.05)
    assert int((bits != brighter).sum(1).max()) <= 2
    assert int((bits[0] != bits[1]).sum()) > 10


@pytest.mark.parametrize("encoder", [LowRes(), Dct(), PHash()])
def test_jpeg_moves_an_image_less_than_another_image_does(encoder):
    import io

    import numpy as np
    from PIL import Image

    x = load("digits[:60]", size=32).tensor()
    packed = []
    for image in ((x[:, 0] + 1) * 127.5).round().byte().numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=40)
        packed.append(np.asarray(Image.open(buffer)))
    y = torch.from_numpy(np.stack(packed))[:, None].float() / 127.5 - 1
    a, b = encode(encoder, x), encode(encoder, y)
    assert torch.equal(torch.cdist(b, a).argmin(1), torch.arange(60))
