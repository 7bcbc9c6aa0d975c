"""A trained model as a diffusers pipeline with the samplers of this package.

The default export of a run is stock diffusers classes only. This pipeline is for what stock schedulers cannot do:
noise-unconditional networks at the level they see themselves, any sampler of `temperance.sample`, a guard. After
`import temperance.pipeline`, `DiffusionPipeline.from_pretrained` loads what `save_pretrained` of it wrote; `import
temperance` alone stays light and does not register it.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ConfigMixin, DiffusionPipeline, ImagePipelineOutput, SchedulerMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from jaxtyping import Float
from torch import Generator, Tensor, nn

from temperance.atomic import read_json
from temperance.denoiser import elsewhere
from temperance.hub import ABOUT, Unet, described, read_unet
from temperance.network import Blind, Preconditioned
from temperance.sample import SAMPLERS, Noise, Project, integrate, usual, walk
from temperance.sample.ancestral import reverse_step
from temperance.schedule import levels


class TemperanceScheduler(SchedulerMixin, ConfigMixin):
    """How a network becomes a denoiser, its noise levels, and the sampler that `TemperancePipeline` runs.

    It also works in a hand-written loop (`set_timesteps`, `scale_model_input`, `step`), where each step contracts
    towards the denoised image, x' = D + (s'/s) (x - D), and the last one returns D. A network that is told its noise
    gets `timesteps`; one that is not ignores them.

    Args:
        about: `denoiser` and `schedule`, as `temperance.json` of a run describes them.
        sampler: heun, dpm, ancestral, pc, adaptive, nesterov or annealed.
    """

    order = 1

    @register_to_config
    def __init__(self, about: dict[str, Any] | None = None, sampler: str = "heun"):
        if about is None or not {"denoiser", "schedule"} <= about.keys():
            raise ValueError(f"about must hold denoiser and schedule, as {ABOUT} of a run does, got {about}")
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        self.denoiser, self.schedule = described(about, nn.Identity())
        self.sigmas = torch.empty(0)
        self.timesteps = torch.empty(0)

    @property
    def init_noise_sigma(self) -> float:
        """The std of the noise that sampling starts from."""
        return float(levels(self.schedule, 2)[0])

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the levels of a hand-written loop."""
        self.sigmas = levels(self.schedule, max(2, num_inference_steps)).to(device)
        self.timesteps = self.sigmas.log() / 4

    def scale_model_input(self, sample: Float[Tensor, "batch c h w"], timestep: Any) -> Tensor:
        """What the network is given for a noisy image: EDM's c_in x, or x over its own root mean square."""
        return self._seen(sample, timestep)[0]

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Float[Tensor, "batch c h w"],
        generator: Generator | list[Generator] | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """One contraction; after the last level, the denoised image. `generator` is accepted and not used."""
        at = self._place(timestep)
        denoised = self._seen(sample, timestep, model_output)[1]
        now = float(self.sigmas[at])
        then = float(self.sigmas[at + 1]) if at + 1 < len(self.sigmas) else 0.0
        x = reverse_step(sample, denoised, now, then, Noise(0, []), eta=0.0)
        return SchedulerOutput(prev_sample=x) if return_dict else (x,)

    def _place(self, timestep: Any) -> int:
        if not len(self.timesteps):
            raise ValueError("call set_timesteps before a step")
        return int((self.timesteps - float(timestep)).abs().argmin())

    def _seen(self, sample: Tensor, timestep: Any, output: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The network's input and, given its output, the denoised image, by the denoiser itself."""
        if not isinstance(self.denoiser, Preconditioned | Blind):
            raise ValueError(
                "a hand-written loop needs a preconditioned network; use the stock scheduler of the export"
            )
        given = _Given(output)
        self.denoiser.network = given  # the denoiser's own formulas around an output that is known already
        sigma = self.sigmas[self._place(timestep)].to(sample).expand(len(sample))
        denoised = self.denoiser(sample, sigma)
        assert given.asked is not None
        return given.asked, denoised


class _Given(nn.Module):
    """In a network's place: remembers what it was asked and answers what it was given."""

    def __init__(self, output: Tensor | None):
        super().__init__()
        self.output, self.asked = output, None

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        self.asked = x
        return torch.zeros_like(x) if self.output is None else self.output


class TemperancePipeline(DiffusionPipeline):
    """Unconditional image generation by a UNet and one of this package's samplers.

    `pipe(batch_size=4, generator=[...])`: with a list, image i depends on generator i alone.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel, scheduler: TemperanceScheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @staticmethod
    def of(folder: str | Path, sampler: str | None = None) -> "TemperancePipeline":
        """The pipeline of a run or of a model folder that `temperance.hub.save` wrote.

        Args:
            folder: RUN or RUN/model.
            sampler: by default `heun`, and `adaptive` for a noise-unconditional network of edm or ve.

        Raises:
            ValueError: if there is no UNet in the folder; the small perceptron is no diffusers model.
        """
        folder = Path(folder)
        folder = folder / "model" if (folder / "model").is_dir() else folder
        if not (folder / ABOUT).is_file() or not (folder / "unet").is_dir():
            raise ValueError(f"{folder} holds no {ABOUT} with a unet; train with --set network=unet")
        about = read_json(folder / ABOUT)
        kept = {key: about[key] for key in ("denoiser", "schedule")}
        # What stands for a noise-unconditional network of vp or flow is told its level all the same (decision 0007).
        chosen = sampler or usual(told=about["denoiser"]["told"] or "predicts" in about["denoiser"])
        return TemperancePipeline(read_unet(folder / "unet"), TemperanceScheduler(kept, chosen))

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generator | list[Generator] | None = None,
        num_inference_steps: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        project: Project | None = None,
        class_labels: int | list[int] | None = None,
        **options: float | int,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw images.

        Args:
            batch_size: how many.
            generator: one for all, or a list with one for each image.
            num_inference_steps: noise levels; for a self-paced sampler, its most evaluations.
            output_type: pil, np (0 to 1, channels last) or pt (0 to 1, channels first).
            return_dict: an `ImagePipelineOutput`, or a tuple.
            project: a constraint on every denoised image, see `temperance.sample.projected`.
            class_labels: of a class-conditional network: one for all, or one for each image.
            **options: of the sampler, for example `eta` or `step`.
        """
        noise = _noise(generator, batch_size)
        name = self.scheduler.config["sampler"]
        unet = Unet(self.unet, told=self.scheduler.config["about"]["denoiser"]["told"])
        denoiser, schedule = described(self.scheduler.config["about"], unet)
        denoiser.eval()
        given = [] if class_labels is None else [torch.as_tensor(class_labels).expand(batch_size)]
        labels = [one.to(self._execution_device) for one in given]
        call = elsewhere(lambda x, sigma: denoiser(x, sigma, *labels), self._execution_device)
        sampler, sigmas, limit = walk(name, schedule, num_inference_steps)
        size = self.unet.config["sample_size"]
        shape = (self.unet.config["in_channels"], *((size, size) if isinstance(size, int) else size))
        x = integrate(sampler, call, shape, sigmas, noise, project=project, **{**limit, **options}).x
        images: Any = (x / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def _noise(generator: Generator | list[Generator] | None, count: int) -> Noise:
    """A stream for each image; of one generator, each image's seed is drawn in turn."""
    if isinstance(generator, list):
        if len(generator) != count:
            raise ValueError(f"generator holds {len(generator)} generators for batch_size {count}; give one an image")
        return Noise.of(generator)
    seeds = torch.randint(
        1 << 62, (count,), generator=generator, device=None if generator is None else generator.device
    )
    return Noise.of([Generator().manual_seed(seed) for seed in seeds.tolist()])


def drawer(pipe: Any, seed: int, **options: Any) -> Callable[..., Tensor]:
    """A diffusers pipeline as `temperance.guard.Guard.draw` takes it: noise indices to images in [-1, 1].

    `pipe` is any pipeline that takes `generator` as a list and `output_type="np"`; `options` go with every call.
    One that does not know `batch_size` (a pipeline with prompts) gets `num_images_per_prompt`.
    """
    known = inspect.signature(pipe.__call__).parameters  # sees through the decorators that diffusers puts around it
    many = "num_images_per_prompt" if "num_images_per_prompt" in known else "batch_size"

    def draw(stream: Sequence[int], **more: Any) -> Tensor:
        generators = Noise(seed, stream).generators
        found = pipe(**{many: len(stream)}, generator=generators, output_type="np", **options, **more)
        return torch.from_numpy(found.images).permute(0, 3, 1, 2).float() * 2 - 1

    return draw


# diffusers has no registry: it finds a pipeline by its name among its own attributes.
setattr(diffusers, TemperancePipeline.__name__, TemperancePipeline)
