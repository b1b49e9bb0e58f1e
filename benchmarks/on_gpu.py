"""Checks that need GPUs: `python -m benchmarks.on_gpu`.

Prints for each check whether it passed or failed, or how many GPUs it needs. The exit status is 1 if any check fails.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from benchmarks.encoding import measured, stores
from benchmarks.measuring import ROOT, Options, environment, machine
from benchmarks.pixels import made_images
from benchmarks.trainers import Setting, random_split, trainer
from hf_biasensemble.arguments.training import PIXELS_ON
from hf_biasensemble.data.batches.device_pixels import with_pixels_on

SETTINGS = {"method": "lff_be", "backbone": "mlp", "image_size": 28, "image_scale": 1, "learning_rate": 0.003}
MEMBERS = {"num_members": 3, "member_agreement": 2, "member_threshold": 0.5, "member_steps": 100}
LENGTH = {"max_steps": 40, "eval_steps": 20, "save_steps": 20, "per_device_train_batch_size": 64}
RESNET = Setting("resnet18", image_size=224, batch_size=64, image_scale=1.0)


@dataclass(frozen=True)
class Workplace:
    """Options for a small dataset, a folder for outputs, and the number of GPUs."""

    data: list[str]
    folder: Path
    gpus: int

    def train(self, name: str, processes: int = 1, **changes: object) -> Path:
        """Trains on a GPU if available and returns the run's folder."""
        return self.command("train", name, processes, **{**SETTINGS, **MEMBERS, **LENGTH, **changes})

    def command(self, command: str, name: str, processes: int = 1, **settings: object) -> Path:
        """Runs a command; `train` writes to a folder of that name, which is returned."""
        output_dir = self.folder / name
        given = settings if command != "train" else {"output_dir": output_dir, "disable_tqdm": "true", **settings}
        words = [str(word) for option, value in given.items() for word in (f"--{option}", value)]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        launched = [*(launcher if processes > 1 else []), str(ROOT / f"{command}.py")]
        visible = {} if processes > 1 or self.gpus == 0 else {"CUDA_VISIBLE_DEVICES": "0"}
        done = subprocess.run(
            [sys.executable, *launched, *self.data, *words],
            env={**environment(), "HF_HUB_OFFLINE": "1", **visible},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr.strip()[-1500:]}")
        return output_dir


def difference(one: Path, other: Path) -> float:
    """Largest difference between the weights of two published models."""
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)


def at_most(found: float, limit: float, what: str) -> str:
    """Returns a line with the value found; raises above the limit."""
    if not found <= limit:
        raise AssertionError(f"{what}: expected at most {limit:g}, found {found:g}")
    return f"{what} {found:g} (at most {limit:g})"


def as_on_the_processors(place: Workplace) -> str:
    shared = place.folder / "selection"
    exact = {"adam_epsilon": 1e-4, "selection_dir": shared}
    runs = [place.train(f"on_{name}", use_cpu=name == "cpu", **exact) for name in ("cpu", "gpu")]
    return at_most(difference(*runs), 1e-3, "weights after 40 steps differ by")


def processes_as_one(place: Workplace) -> str:
    exact = {"method": "disent_be", "adam_epsilon": 1e-4, "swap_start_step": 10, "use_cpu": place.gpus < 2}
    exact["selection_dir"] = place.folder / "selection_of_one"
    runs = [place.train(f"by_{n}", n, per_device_train_batch_size=64 // n, **exact) for n in (1, 2)]
    backend = "NCCL" if place.gpus > 1 else "gloo, on processors"
    return at_most(difference(*runs), 1e-5, f"({backend}) weights after 40 steps differ by")


def encoding_is_shared(place: Workplace) -> str:
    weights = place.folder / "weights.pth"
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    images = place.folder / "images"
    for name in ("one", "two"):
        (images / name).mkdir(parents=True)
        made_images(images / name, 256)
    words = [str(images), "--backbone", "test_resnet", "--pretrained_weights", str(weights), "--image_size", "160"]
    found, said = [], []
    for processes in (1, 2):
        cache = place.folder / f"cache{processes}"
        _, seconds, count = measured(processes, words, cache)
        found.append(stores(cache))
        said.append(f"{count / seconds:.0f} images per second by {processes}")
    if found[0] != found[1]:
        raise AssertionError("expected equal stores, found different ones")
    return ", ".join(said)


def resumed_in_half_precision(place: Workplace) -> str:
    whole = place.train("fp16", fp16=True, save_total_limit=5)
    place.train("fp16_resumed", fp16=True, max_steps=40, save_total_limit=5)
    resumed = place.folder / "fp16_resumed"
    for path in ("checkpoint-40", "model.safetensors"):  # as if it had ended after step 20
        subprocess.run(["rm", "-r", str(resumed / path)], check=True)
    if not (resumed / "checkpoint-20" / "scaler.pt").exists():
        raise AssertionError("expected scaler.pt in checkpoint-20, found none")
    place.train("fp16_resumed", fp16=True, save_total_limit=5, resume_from_checkpoint="true")
    return at_most(difference(whole, resumed), 1e-6, "weights of a resumed run differ by")


class _NoWait(TrainerCallback):
    """Raises if anything makes the host wait for the GPU from the third step on."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_end(self, args, state, control, **kwargs):
        torch.cuda.set_sync_debug_mode("default")


def no_step_waits(place: Workplace) -> str:
    methods = ("erm", "lff", "lff_be", "disent_be", "group_dro_be", "last_layer_be", "members")
    try:
        for method in methods:
            for pixels_on in PIXELS_ON:
                split = with_pixels_on(pixels_on, torch.device("cuda", 0), {"": random_split(2_000)})[""]
                with trainer(method, split, Setting(), 40, use_cpu=False) as built:
                    built.add_callback(_NoWait())
                    built.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return f"37 steps of each of {', '.join(methods)}, pixels on {' and '.join(PIXELS_ON)}"


class _Profiled(TrainerCallback):
    """Profiles the GPU in steps 6 to 25."""

    def __init__(self):
        self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in (5, 25):
            torch.cuda.synchronize()
            (self.profile.start if state.global_step == 5 else self.profile.stop)()

    def copies_and_kernels(self):
        """GPU events: copies from the host, and kernels."""
        events = [event for event in self.profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        copies = [event for event in events if "HtoD" in event.name]
        return copies, [event for event in events if not event.name.startswith(("Memcpy", "Memset"))]


def copies_beside_steps(place: Workplace) -> str:
    with trainer("lff_be", random_split(512, 224), RESNET, 30, use_cpu=False) as built:
        profiled = _Profiled()
        built.add_callback(profiled)
        built.train()
    copies, kernels = profiled.copies_and_kernels()
    pinned = [copy for copy in copies if "Pinned" in copy.name]
    if len(pinned) < len(copies) or len(copies) < 60:
        raise AssertionError(f"expected 60 copies of pinned memory in 20 steps, found {len(pinned)} of {len(copies)}")
    total = sum(copy.time_range.end - copy.time_range.start for copy in copies)
    beside = sum(
        max(0, min(copy.time_range.end, kernel.time_range.end) - max(copy.time_range.start, kernel.time_range.start))
        for copy in copies
        for kernel in kernels
    )
    return at_most(1 - beside / total, 0.5, "share of the time of copies in which nothing is computed:")


def pixels_on_the_device(place: Workplace) -> str:
    exact = {"adam_epsilon": 1e-4, "selection_dir": place.folder / "selection"}
    runs = [place.train(f"on_{pixels_on}", pixels_on=pixels_on, **exact) for pixels_on in PIXELS_ON]
    return at_most(difference(*runs), 1e-6, "weights after 40 steps differ by")


def compiled(place: Workplace) -> str:
    settings = {"backbone": "resnet18", "image_size": 64, "bf16": True, "keep_member": "last"}
    plain = place.train("plain", selection_dir=place.folder / "of_resnet", **settings)
    compiled = place.train("compiled", selection_dir=place.folder / "of_resnet", torch_compile=True, **settings)
    return at_most(difference(plain, compiled), 0.05, "weights of a compiled ResNet18 in bfloat16 differ by")


def fewer_members_at_once(place: Workplace) -> str:
    peaks = {}
    for at_once in (5, 1):
        torch.cuda.reset_peak_memory_stats()
        with trainer("members", random_split(512, 224), RESNET, 5, members_at_once=at_once, use_cpu=False) as built:
            built.train()
        peaks[at_once] = torch.cuda.max_memory_allocated() / 1e9
    return at_most(peaks[1] / peaks[5], 0.6, f"one of five members at a time: {peaks[1]:.1f} of {peaks[5]:.1f} GB,")


def tested_as_trained(place: Workplace) -> str:
    run = place.train("tested")
    measured = json.loads((run / "all_results.json").read_text())["test_accuracy"]
    found = {}
    for name, settings in {"float32": {}, "bfloat16": {"bf16": True}}.items():
        file = place.folder / f"{name}.json"
        place.command("test", name, model=run, output_file=file, **settings)
        found[name] = json.loads(file.read_text())["test_accuracy"]
    exact = at_most(abs(found["float32"] - measured), 1e-3, "accuracy differs by")
    return f"{exact}; in bfloat16 by {at_most(abs(found['bfloat16'] - measured), 0.02, '').strip()}"


def speed(place: Workplace) -> str:
    found = []
    for name, setting, split in (
        ("MLP", Setting(), random_split(8_000)),
        ("ResNet18", RESNET, random_split(512, 224)),
    ):
        for method in ("erm", "lff_be"):
            with trainer(method, split, setting, 200, use_cpu=False) as built:
                seconds = built.train().metrics["train_runtime"]
            found.append(f"{name} {method} {200 / seconds:.0f}")
    return f"steps per second: {', '.join(found)}"


@dataclass(frozen=True)
class Line:
    """A check and the number of GPUs it needs."""

    name: str
    gpus: int
    show: Callable[[Workplace], str]


LINES = (
    Line("two processes train what one does", 0, processes_as_one),
    Line("processes share the encoding and store the same bytes", 0, encoding_is_shared),
    Line("test gives the figure of training", 0, tested_as_trained),
    Line("a GPU trains what processors do", 1, as_on_the_processors),
    Line("a resumed run in float16 is the undisturbed one", 1, resumed_in_half_precision),
    Line("no step waits for the device", 1, no_step_waits),
    Line("batches are copied while the device computes", 1, copies_beside_steps),
    Line("pixels on the device train what those on the host do", 1, pixels_on_the_device),
    Line("a compiled ResNet18 in bfloat16 trains what a plain one does", 1, compiled),
    Line("fewer members at once need less memory", 1, fewer_members_at_once),
    Line("speed", 1, speed),
)


def main() -> int:
    """Runs the checks."""
    gpus, failed = torch.cuda.device_count(), 0
    names = [torch.cuda.get_device_name(number) for number in range(gpus)]
    print(", ".join(f"{name} {value}" for name, value in {**machine(), "GPUs": ", ".join(names) or "none"}.items()))
    with Options().coloured_mnist() as data, TemporaryDirectory() as folder:
        for number, line in enumerate(LINES):
            print(f"{line.name}: ", end="", flush=True)
            if gpus < line.gpus:
                print(f"needs {line.gpus} GPU{'s' if line.gpus > 1 else ''}")
                continue
            own = Path(folder) / str(number)
            own.mkdir()
            try:
                print(f"pass; {line.show(Workplace(data, own, gpus))}")
            except Exception as error:  # a failure must not hide the other checks
                failed += 1
                print(f"FAIL; {error}" if isinstance(error, AssertionError | RuntimeError) else traceback.format_exc())
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
