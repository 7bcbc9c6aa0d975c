"""Everything diffusers: its UNet as a denoiser, and models as folders that diffusers can open.

A model folder holds `unet/` and `scheduler/` exactly as diffusers writes them (or `mlp/` for the small network) and
`temperance.json`, which says how the network becomes a denoiser. `scheduler/` is the stock class that samples from the
network as it is: `EDMEulerScheduler` for preconditioned networks, `DDPMScheduler` for `Vp`,
`FlowMatchEulerDiscreteScheduler` for `Flow` and velocity. What no stock scheduler can run is saved without one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin, UNet2DModel
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from temperance.atomic import MANIFEST, damaged, new_folder, read_json, write_json
from temperance.autoguidance import Autoguided
from temperance.network import TIME_UNITS, Blind, Parameterized, Preconditioned, ResidualMlp, silent
from temperance.sample import FRESH
from temperance.schedule import Edm, Flow, Schedule, Ve, Vp, levels

ABOUT = "temperance.json"
SCHEDULES = {"edm": Edm, "ve": Ve, "vp": Vp, "flow": Flow}
DIFFUSERS_PREDICTION = {"eps": "epsilon", "v": "v_prediction", "denoised": "sample"}
DIFFUSERS_BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


class Unet(nn.Module):
    """diffusers' `UNet2DModel` called like every network here: images and one number per row in, images out.

    With `told=False` it is exactly noise-unconditional: the second layer of its time embedding has zero, frozen
    weights, so only a learned constant is left of the time, and the model stays a stock `UNet2DModel`.
    """

    def __init__(self, unet: UNet2DModel, *, told: bool):
        super().__init__()
        self.unet = unet
        self.change: nn.Linear | None = None
        if not told:
            assert unet.time_embedding is not None
            nn.init.zeros_(unet.time_embedding.linear_2.weight)
            unet.time_embedding.linear_2.weight.requires_grad_(False)

    def hear(self, numbers: int) -> None:
        """Take, for a label, how an image was changed, `numbers` of them; zeros, or no label, add nothing.

        What hears them is no part of the `UNet2DModel`, which is saved as if it had never been told.
        """
        assert self.unet.time_embedding is not None
        self.change = silent(numbers, self.unet.time_embedding.linear_2.out_features)
        self.unet.class_embedding = nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch c h w"],
        noise: Float[Tensor, " batch"],
        label: Int[Tensor, " batch"] | Float[Tensor, "batch changes"] | None = None,
    ) -> Tensor:
        """Predict an image-sized output, in the precision of x whatever that of the weights."""
        if self.change is not None:
            label = self.change(x.new_zeros(len(x), self.change.in_features) if label is None else label)
        return self.unet(x.to(self.unet.conv_in.weight.dtype), noise, class_labels=label).sample.to(x.dtype)


@dataclass(frozen=True)
class Model:
    """A denoiser with what a sampler has to know about it."""

    denoiser: nn.Module
    schedule: Schedule
    shape: tuple[int, int, int]
    about: dict[str, Any]

    @property
    def told(self) -> bool:
        """Whether the denoiser needs sigma; a noise-unconditional network of `Vp` or `Flow` sits in one that does."""
        inner = self.denoiser.denoiser if isinstance(self.denoiser, Autoguided) else self.denoiser
        return isinstance(inner, Preconditioned | Parameterized)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes it was trained on; empty if it is not class-conditional."""
        return tuple(self.about.get("classes") or ())

    def label(self, name: str) -> int:
        """The number of a class, given its name or, where the names are no numbers themselves, that number.

        Raises:
            ValueError: if the model is not class-conditional or has no such class.
        """
        if not self.classes:
            raise ValueError(f"--label {name}: the model is not class-conditional; train one with --class-conditional")
        if name in self.classes:
            return self.classes.index(name)
        if name.isdigit() and int(name) < len(self.classes) and not all(c.isdigit() for c in self.classes):
            return int(name)
        known = ", ".join(self.classes[:10]) + (", ..." if len(self.classes) > 10 else "")
        raise ValueError(f"--label {name} is no class of the model; expected one of {known}")

    def labels(self, index: Sequence[int]) -> tuple[Int[Tensor, " batch"], ...]:
        """What the denoiser is called with after x and sigma for these sample indices: their classes, or nothing.

        All classes in turn, or the one that `about` holds as `label`. The class depends on the index alone, so that it
        is the same in any batch, and after a redraw, which adds multiples of `FRESH` to it.
        """
        if not self.classes:
            return ()
        only = self.about.get("label")
        return (torch.tensor([i % FRESH % len(self.classes) if only is None else only for i in index]),)


def new_network(
    kind: str, shape: tuple[int, int, int], *, told: bool, seed: int, classes: int = 0, unit: float = 1.0
) -> nn.Module:
    """A freshly initialized `mlp` or `unet` for images of `shape` (channels, height, width).

    The mlp is 192 units wide, or twice the image's numbers, since it cannot pass on more numbers than its width.
    `kind` may also be a folder that `load` opens: its network is built again, with fresh weights. `classes`: how many
    labels the network is told; `unit`: what an mlp's noise level is counted in (see `network.ResidualMlp`).

    Raises:
        ValueError: for another kind, or a size that the UNet cannot halve twice.
    """
    channels, height, width = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "mlp":
            numbers = channels * height * width
            # At low noise the network puts out noise, which has no fewer dimensions than the image.
            return ResidualMlp(numbers, width=max(192, 2 * numbers), unit=unit, classes=classes)
        if kind != "unet" and Path(kind).is_dir():
            return _like(Path(kind), shape, told=told, classes=classes, unit=unit)
        if kind != "unet":
            raise ValueError(f"network must be mlp, unet or a model folder, got {kind!r}")
        if height % 4 or width % 4 or height < 8:
            raise ValueError(f"the unet needs sides of 8 or more divisible by 4, got {height}x{width}; try --size 16")
        unet = UNet2DModel(
            sample_size=height if height == width else (height, width),
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(32, 64, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            num_class_embeds=classes or None,
        )
        return Unet(unet, told=told)


def kind_of(network: nn.Module) -> str:
    """`mlp` or `unet`."""
    return "mlp" if isinstance(network, ResidualMlp) else "unet"


def _like(folder: Path, shape: tuple[int, int, int], *, told: bool, classes: int, unit: float) -> nn.Module:
    model = load(folder)
    network = model.denoiser.network
    if model.shape != shape:
        raise ValueError(
            f"--network {folder} is for images {model.shape}, the data are {shape}; set --size, --channels"
        )
    if isinstance(network, Unet):
        config = {k: v for k, v in network.unet.config.items() if not k.startswith("_")}
        unet = UNet2DModel.from_config({**config, "num_class_embeds": classes or None})
        assert isinstance(unet, UNet2DModel)
        return Unet(unet, told=told)
    assert isinstance(network, ResidualMlp)
    return ResidualMlp(**_mlp_config(network) | {"unit": unit, "classes": classes})


def new_denoiser(
    network: nn.Module,
    points: Float[Tensor, "n c h w"],
    *,
    told: bool,
    schedule: Schedule | None = None,
    predicts: str = "preconditioned",
) -> nn.Module:
    """Make a denoiser of a network, with the constants of the data it will be trained on.

    `predicts`: what the network puts out: `preconditioned` (Karras et al., or `Blind` if it is not told its noise), or
    a name of `denoiser.PREDICTIONS`, which needs the schedule.
    """
    mean_square = float(points.square().mean())
    if predicts != "preconditioned":
        assert schedule is not None
        return Parameterized(network, schedule, predicts, mean_square**0.5, told=told)
    if told:
        return Preconditioned(network, mean_square**0.5)
    return Blind(network, mean_square**0.5, mean_square)


def save(folder: Path | str, model: Model) -> None:
    """Write a model folder atomically: complete or not at all.

    Raises:
        ValueError: for a denoiser that is none of the package's; of an `Autoguided` one, save its two models.
    """
    denoiser = model.denoiser
    if not isinstance(denoiser, Preconditioned | Blind | Parameterized):
        raise ValueError(f"a {type(denoiser).__name__} cannot be saved; save the models that it is made of")
    about = dict(model.about)
    about["denoiser"] = {"told": not isinstance(denoiser, Blind), "sigma_data": denoiser.sigma_data}
    if isinstance(denoiser, Blind):
        about["denoiser"] |= {"mean_square": denoiser.mean_square, "floor": denoiser.floor}
    if isinstance(denoiser, Parameterized):
        about["denoiser"] |= {"predicts": denoiser.predicts, "told": denoiser.told}
    name = next(k for k, v in SCHEDULES.items() if isinstance(model.schedule, v))
    about["schedule"] = {"process": name, **asdict(model.schedule)}  # pyright: ignore[reportArgumentType]
    about["shape"] = list(model.shape)
    with new_folder(Path(folder)) as scratch:
        if isinstance(denoiser.network, Unet):
            _save_unet(scratch, denoiser.network.unet, stock_scheduler(model))
        else:
            _save_mlp(scratch, denoiser.network)
        write_json(scratch / ABOUT, about)


def stock_scheduler(model: Model) -> SchedulerMixin | None:
    """The diffusers scheduler that samples from the model's network as it is; None if there is none."""
    denoiser, schedule = model.denoiser, model.schedule
    if isinstance(denoiser, Preconditioned | Blind):
        high, low = levels(schedule, 2).tolist()
        return EDMEulerScheduler(sigma_max=high, sigma_min=low, sigma_data=denoiser.sigma_data)
    assert isinstance(denoiser, Parameterized)
    if isinstance(schedule, Flow) and denoiser.predicts == "velocity":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=int(TIME_UNITS))
    if isinstance(schedule, Vp) and denoiser.predicts in DIFFUSERS_PREDICTION:
        given = not isinstance(schedule.betas, str)
        return DDPMScheduler(
            num_train_timesteps=schedule.steps,
            beta_start=schedule.first,
            beta_end=schedule.last,
            beta_schedule="linear" if given else DIFFUSERS_BETAS[str(schedule.betas)],  # pyright: ignore[reportArgumentType]
            trained_betas=list(schedule.betas) if given else None,  # pyright: ignore[reportArgumentType]
            prediction_type=DIFFUSERS_PREDICTION[denoiser.predicts],  # pyright: ignore[reportArgumentType]
            clip_sample=False,
        )
    return None


def _save_unet(folder: Path, unet: UNet2DModel, scheduler: SchedulerMixin | None) -> None:
    unet.save_pretrained(folder / "unet")
    if scheduler is None:
        return
    scheduler.save_pretrained(folder / "scheduler")
    # No stock pipeline draws with the others, whose inputs are to be scaled at every step, or draws by class.
    stock = isinstance(scheduler, DDPMScheduler) and not unet.config.get("num_class_embeds")
    index = {
        "_class_name": "DDPMPipeline" if stock else "DiffusionPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", type(scheduler).__name__],
    }
    write_json(folder / "model_index.json", index)


def _save_mlp(folder: Path, network: nn.Module) -> None:
    assert isinstance(network, ResidualMlp)
    (folder / "mlp").mkdir()
    write_json(folder / "mlp" / "config.json", _mlp_config(network))
    weights = {name: w for name, w in network.state_dict().items() if not name.startswith("change.")}
    save_file(weights, folder / "mlp" / "model.safetensors")


def _mlp_config(network: ResidualMlp) -> dict[str, Any]:
    return {
        "dim": network.inward.in_features,
        "width": network.inward.out_features,
        "depth": len(network.blocks),
        "embedding": 2 * len(network.frequencies),
        "unit": network.unit,
        "classes": network.classes,
    }


def load(folder: Path | str) -> Model:
    """Open a run (`RUN/model/`), a model folder, or a diffusers folder with a UNet2DModel and its scheduler.

    Raises:
        ValueError: in one line, if the folder holds none of these, or a file is not what `manifest.json`, where there
            is one, says.
    """
    folder = Path(folder)
    folder = folder / "model" if (folder / "model").is_dir() else folder
    try:
        return _load(folder) if (folder / ABOUT).exists() else _load_foreign(folder)
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:  # RuntimeError: weights that do not fit
        raise ValueError(f"{folder} holds no model that can be read: {error}") from error


def _load(folder: Path) -> Model:
    if (folder / MANIFEST).exists() and (name := damaged(folder)):
        raise ValueError(f"{folder / name} is damaged; if it was changed on purpose, delete {folder / MANIFEST}")
    about = read_json(folder / ABOUT)
    if (folder / "mlp").is_dir():
        network: nn.Module = ResidualMlp(**read_json(folder / "mlp" / "config.json"))
        network.load_state_dict(load_file(folder / "mlp" / "model.safetensors"))
    else:
        network = Unet(read_unet(folder / "unet"), told=about["denoiser"]["told"])
    denoiser, schedule = described(about, network)
    channels, height, width = about["shape"]
    return Model(denoiser.eval(), schedule, (channels, height, width), about)


def read_unet(folder: Path) -> UNet2DModel:
    """The UNet of a diffusers folder, from safetensors alone: weights saved as a pickle are refused."""
    names = sorted(path.name.split(".") for path in folder.glob("diffusion_pytorch_model*.safetensors"))
    if not names:
        raise ValueError(f"{folder} holds no diffusion_pytorch_model.safetensors; save_pretrained writes one")
    variant = min((name[1] for name in names), key=lambda part: part != "safetensors")  # fp16, if there are no others
    told = {} if variant == "safetensors" else {"variant": variant}
    unet = UNet2DModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, **told)
    assert isinstance(unet, UNet2DModel)
    return unet


def described(about: dict[str, Any], network: nn.Module) -> tuple[nn.Module, Schedule]:
    """The denoiser around a network, and its schedule, as `temperance.json` describes them."""
    levels_of = dict(about["schedule"])
    schedule = SCHEDULES[levels_of.pop("process")](**levels_of)
    settings = dict(about["denoiser"])
    told = settings.pop("told")
    if "predicts" in settings:
        return Parameterized(network, schedule, **settings, told=told), schedule
    return (Preconditioned(network, **settings) if told else Blind(network, **settings)), schedule


def _load_foreign(folder: Path) -> Model:
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    config = folder / "scheduler" / "scheduler_config.json"
    if not (unet / "config.json").exists() or not config.exists():
        raise ValueError(
            f"{folder} holds no model: expected a temperance run or a diffusers folder with unet/ and scheduler/"
        )
    made = read_json(unet / "config.json")
    kind, inward = made.get("_class_name", "UNet2DModel"), made.get("in_channels", 3)
    if kind != "UNet2DModel":
        raise ValueError(f"{unet} holds a {kind}; only a UNet2DModel can be used")
    if made.get("out_channels", 3) != inward:
        raise ValueError(f"{unet} makes {made['out_channels']} channels of {inward}: a learned variance cannot be used")
    coder = next((name for name in ("vae", "vqvae") if (folder / name).is_dir()), None)
    if coder:
        raise ValueError(f"{folder} has a {coder}: its UNet makes latents; only models of pixels can be used")
    network = Unet(read_unet(unet), told=True)
    schedule, predicts = process_of(read_json(config))
    size = network.unet.config["sample_size"]
    if not size:
        raise ValueError(f"{unet}/config.json has no sample_size: the side of its images is not known; add it")
    height, width = (size, size) if isinstance(size, int) else size
    shape = (network.unet.config["in_channels"], height, width)
    if predicts == "preconditioned":
        denoiser: nn.Module = Preconditioned(network, read_json(config)["sigma_data"])
    else:
        denoiser = Parameterized(network, schedule, predicts)
    count = network.unet.config.get("num_class_embeds") or 0
    about = {"source": "diffusers", **({"classes": [str(i) for i in range(count)]} if count else {})}
    return Model(denoiser.eval(), schedule, shape, about)


def process_of(config: dict[str, Any]) -> tuple[Schedule, str]:
    """The schedule that a diffusers scheduler's configuration stands for, and what its networks predict.

    Raises:
        ValueError: for a scheduler, a prediction or a table of betas that is not known here.
    """
    name = config.get("_class_name", "DDPMScheduler")
    if name.startswith("FlowMatch"):
        if config.get("num_train_timesteps", TIME_UNITS) != TIME_UNITS:
            raise ValueError(f"num_train_timesteps of {name} must be 1000, got {config['num_train_timesteps']}")
        return Flow(), "velocity"
    if name.startswith("EDM"):
        if config.get("prediction_type", "epsilon") != "epsilon":
            raise ValueError(f"prediction_type of {name} must be epsilon, got {config['prediction_type']!r}")
        return Edm(config["sigma_min"], config["sigma_max"], sigma_data=config["sigma_data"]), "preconditioned"
    if "beta_start" not in config and name != "DDPMScheduler":  # no table of betas: another process
        raise ValueError(f"a model with {name} cannot be used; DDPM and its relatives, EDM and flow matching can")
    asked = config.get("prediction_type", "epsilon")
    known = {theirs: ours for ours, theirs in DIFFUSERS_PREDICTION.items()}
    if asked not in known:
        raise ValueError(f"prediction_type must be epsilon, sample or v_prediction, got {asked!r}")
    scheduler = DDPMScheduler.from_config(config)
    assert isinstance(scheduler, DDPMScheduler)
    kinds = {theirs: ours for ours, theirs in DIFFUSERS_BETAS.items()}
    kind = kinds.get(scheduler.config["beta_schedule"])
    own = scheduler.config["trained_betas"] is not None or scheduler.config["rescale_betas_zero_snr"]
    if kind is None or own:
        return Vp(tuple(scheduler.betas.tolist())), known[asked]
    first, last = scheduler.config["beta_start"], scheduler.config["beta_end"]
    return Vp(kind, scheduler.config["num_train_timesteps"], first, last), known[asked]
