"""Samples of a class-conditional model, alone and from a smoothed start: how many are of the class that was asked for.

    python -m benchmarks.by_class [--quick]

Plain training of a perceptron on 300 digits, told their classes; 400 samples, all classes in turn. What class a sample
is of says a support vector machine that is trained on the other digits, which the network never saw.
"""

import argparse

import torch
from sklearn.svm import SVC
from torch import Tensor

from temperance.data import load, split
from temperance.hub import Model
from temperance.recipe import Recipe, fit, prepare
from temperance.sample import Noise, heun, integrate
from temperance.schedule import levels
from temperance.start import SmoothedStart, smoothed_start
from temperance.train import Settings

SEED, TRAINED, DRAWN, CLASSES, LEVELS = 10, 300, 400, 10, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--quick", action="store_true", help="a fortieth of the steps: shows that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = load("digits")
    train, rest = split(images, (TRAINED, len(images) - TRAINED), SEED)
    points, labels = train.tensor(), torch.tensor(train.labels)
    told = SVC().fit(rest.tensor().flatten(1).numpy(), rest.labels)
    print(f"training images: {told.score(points.flatten(1).numpy(), labels.numpy()):.3f} of the class that they are of")
    ready = prepare(
        Recipe(objective="conditional", class_conditional=True), points, seed=SEED, labels=labels, classes=CLASSES
    )
    steps = max(1, options.steps // 40) if options.quick else options.steps
    start = smoothed_start(points, labels=labels)
    wanted = torch.arange(DRAWN) % CLASSES
    settings = Settings(steps=steps, checkpoint_every=steps, seed=SEED)
    model = fit(ready, points, settings, progress=False, device="cpu", classes=[str(c) for c in range(CLASSES)])
    for name, begin in (("alone", None), ("from a smoothed start", start.of(wanted))):
        found = told.predict(drawn(model, wanted, begin).flatten(1).clamp(-1, 1).numpy())
        print(f"{name}: {(found == wanted.numpy()).mean():.3f} of the class that was asked for")


def drawn(model: Model, wanted: Tensor, start: SmoothedStart | None) -> Tensor:
    """A sample of every class that is wanted."""

    def of_class(x: Tensor, sigma: Tensor | None) -> Tensor:
        return model.denoiser(x, sigma, wanted)

    noise, sigmas = Noise(SEED, range(len(wanted))), levels(model.schedule, LEVELS)
    return integrate(heun, of_class, model.shape, sigmas, noise, start=start).x


if __name__ == "__main__":
    main()
