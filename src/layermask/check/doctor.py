"""What layermask finds on a machine: versions, devices, compiler, kernels, engine, cache, extras, speed."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layermask import extras
from layermask.check.samples import masks, sample_images
from layermask.errors import Untrusted
from layermask.io.atomic import reason
from layermask.io.record import versions
from layermask.kernels import build, cache, kernels_status, triton
from layermask.removal.layer_masking import LayerMasking
from layermask.sparse.engine import STEM_CONVOLUTIONS
from layermask.sparse.ops import compiled

BATCH = 4  # images in the speed check
LEFT_OUT = ("all", "coverage", "dev")  # extras of several others, and of developers


@dataclass(frozen=True)
class Speed:
    """Seconds of the fastest forward pass over `batch` images: `plain`, and masked by each engine."""

    batch: int
    plain: float
    dense: float
    sparse: float


@dataclass(frozen=True)
class Diagnosis:
    """What was found; `str()` of it is what `layermask doctor` prints.

    `engine` answers for the model under engine="auto" without gradients, and `why` says why. `extras` maps
    each extra to the command that installs what it lacks, "" where it is complete. `speed` is None if it was
    not measured.
    """

    layermask: str
    versions: dict[str, str]
    devices: list[str]
    compilers: list[str]
    kernels: str
    caches: dict[str, str]
    model: str
    engine: str
    why: str
    extras: dict[str, str] = field(default_factory=dict)
    speed: Speed | None = None

    def record(self) -> dict[str, Any]:
        """Return all of it as it stands in JSON."""
        return asdict(self)

    def __str__(self) -> str:
        facts = {
            "layermask": [f"{self.versions.get('layermask', 'not installed')}, {self.layermask}"],
            "versions": [", ".join(f"{a} {b}" for a, b in self.versions.items() if a != "layermask")],
            "devices": self.devices,
            "compilers": self.compilers or ["none: install gcc or clang for fast forward passes on CPUs"],
            "kernels": [self.kernels],
            "cache": [f"{folder}: {state}" for folder, state in self.caches.items()],
            "engine": [f"{self.engine} for {self.model}: {self.why}"],
            "extras": _extras_words(self.extras),
            "speed": _speed_words(self.speed, self.model),
        }
        return "\n".join(
            _row(name, line) for name, lines in facts.items() for name, line in _named(name, lines)
        )


def doctor(
    model: nn.Module,
    shape: tuple[int, ...],
    name: str = "",
    device: str | torch.device = "cpu",
    seconds: float = 10.0,
) -> Diagnosis:
    """Look at this machine, run the model on random images (N, *shape), and time it for some `seconds`.

    `shape`: of one image, (C, *S). `seconds`: of the speed check, which is left out for 0.
    """
    images = sample_images(BATCH, shape).to(device)
    visible = masks(images, ["patches"], 0)
    engines = {each: LayerMasking(model, engine=each) for each in ("auto", "dense", "sparse")}
    with torch.no_grad():
        engines["auto"](images, visible)
        ways = {"plain": lambda: model(images)} | {
            each: lambda each=each: engines[each](images, visible) for each in ("dense", "sparse")
        }
        speed = Speed(BATCH, **fastest(ways, images, seconds)) if seconds else None
    return Diagnosis(
        layermask=str(Path(extras.__file__).parent),
        versions=versions(),
        devices=_devices(),
        compilers=[f"{path} ({_first_line(path)})" for path in build.compilers()],
        kernels=kernels_status(),
        caches={str(folder): _usable(folder) for folder in cache.folders()},
        model=name or type(model).__name__,
        engine=str(engines["auto"].engine_used),
        why=why(engines["auto"], model, images),
        extras={each: extras.install(each) * bool(extras.missing(each)) for each in _extras()},
        speed=speed,
    )


def why(removal: LayerMasking, model: nn.Module, images: Tensor) -> str:
    """Say why engine="auto" took the engine that has answered."""
    count = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    if removal.engine_used == "sparse":
        return f"it has {count} 2-d convolutions, and the compiled kernels take {_kind(images)}"
    if count <= STEM_CONVOLUTIONS:
        return f"it has {count} 2-d convolutions, and sparse pays from {STEM_CONVOLUTIONS + 1} on"
    if images.device.type != "cpu" or images.dtype is not torch.float32:
        return f"auto is sparse for float32 on CPUs, and these are {_kind(images)}"
    if compiled(images) is None:
        return "there are no compiled kernels, see above"
    return "nothing that it calls has a sparse form here"


def fastest(ways: dict[str, Callable[[], Any]], images: Tensor, seconds: float) -> dict[str, float]:
    """Return the seconds of the fastest call of each; they take turns until the time is over."""
    for call in ways.values():
        call()  # the first calls prepare weights and plans
    found = dict.fromkeys(ways, float("inf"))
    end = time.monotonic() + seconds
    while True:
        for name, call in ways.items():
            found[name] = min(found[name], _seconds(call, images))
        if time.monotonic() >= end:
            return found


def _seconds(call: Callable[[], Any], images: Tensor) -> float:
    wait = torch.cuda.synchronize if images.is_cuda else int
    wait()
    begin = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - begin


def _kind(images: Tensor) -> str:
    return f"{str(images.dtype).removeprefix('torch.')} on the {images.device.type.upper()}"


def _devices() -> list[str]:
    threads = f"{torch.get_num_threads()} threads of torch"
    found = [f"cpu: {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {threads}"]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        each = torch.cuda.get_device_properties(index)
        kernels = "Triton" if triton.installed() else "no Triton: torch operators do the work"
        memory = f"{each.total_memory / 2**30:.0f} GiB"
        found.append(f"cuda:{index}: {each.name}, {memory}, capability {each.major}.{each.minor}, {kernels}")
    if len(found) == 1:
        kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs alone"
        found.append(f"no GPU, and torch is built for {kind}")
    return found


def _first_line(compiler: str) -> str:
    try:
        said = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"does not run: {error}"
    return next(iter(said.splitlines()), "says no version")


def _usable(folder: Path) -> str:
    try:
        cache.claim(folder)
        with cache.workplace(folder):
            return "can be used"
    except Untrusted as error:
        return f"not used, {error}"
    except OSError as error:
        return f"not used, {reason(error)}"


def _extras() -> list[str]:
    return [name for name in extras.extras() if name not in LEFT_OUT]


def _extras_words(found: dict[str, str]) -> list[str]:
    complete = ", ".join(name for name, how in found.items() if not how)
    return [f"complete: {complete or 'none'}", *(f"{name}: {how}" for name, how in found.items() if how)]


def _speed_words(speed: Speed | None, name: str) -> list[str]:
    if speed is None:
        return ["not measured"]
    times = {each: getattr(speed, each) for each in ("plain", "dense", "sparse")}
    each = (f"{way} {1000 * s:.0f} ms ({s / speed.plain:.2f})" for way, s in times.items())
    return [f"{name}, {speed.batch} images with half of their patches hidden: {', '.join(each)}"]


def _named(name: str, lines: list[str]) -> list[tuple[str, str]]:
    return [(name if first == 0 else "", line) for first, line in enumerate(lines)]


def _row(name: str, line: str) -> str:
    return f"{name:10s} {line}"
