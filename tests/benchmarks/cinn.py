"""How fast the published MNIST network runs, ours and FrEIA's side by side, and the whole way of a record.

Each side is a process of its own, for what one makes of the memory allocator the other must not inherit, and they take
turns. Rates count either the wall clock, which other work on the machine spoils, or CPU time, which it hardly does.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TextIO, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from cadp.cinn.network import ROUND_TRIP_LIMIT, ConditionalFlow, check_round_trip, keep_freed_memory
from cadp.cinn.precision import prepared
from cadp.cinn.published import import_published
from cadp.privacy.mechanisms import plan_mechanism
from cadp.records import Batch, pack_released
from cadp.steps.privatize import privatize_batch
from tests.benchmarks.figures import Figure
from tests.cinn.oracle import conditions_of, graph

SHAPE = (28, 28, 1)
DIMS, CLASSES = 784, 10
BATCHES = (8, 16, 64, 256, 512)
THREADS = (1, 2)
REPETITIONS, SECONDS = 3, 1.0
RECORDS = 256  # of the record path; FrEIA's loop takes 16 at a time
FREIA, KEPT, OURS, MIXED = "FrEIA", "FrEIA, memory kept", "ours, float32", "ours, bfloat16 subnets"
CHOSEN = "ours, as a release runs it"  # in the precision that `prepared` chooses on this machine
CONVOLUTIONS = {OURS: torch.float32, MIXED: torch.bfloat16}
DIRECTIONS = ("forward", "inverse")

Work = Callable[[], object]


@dataclass(frozen=True)
class Rate:
    """Items a second of the wall clock, and of CPU time."""

    wall: float
    cpu: float


def speed() -> list[Figure]:
    """Images a second in both directions, each side at its best batch and thread count, and how near the peak."""
    with ExitStack() as stack:
        sides = {name: stack.enter_context(side(name)) for name in (FREIA, KEPT, OURS, MIXED)}
        best = {
            (name, threads): max(BATCHES, key=lambda n: rate(sides[name], "forward", n, threads, 0.0).cpu)
            for name in sides
            for threads in THREADS
        }
        found: dict[tuple[str, str, int], list[Rate]] = {}
        for _ in range(REPETITIONS):
            for direction in DIRECTIONS:
                for (name, threads), batch in best.items():
                    one = rate(sides[name], direction, batch, threads, SECONDS)
                    found.setdefault((name, direction, threads), []).append(one)
        peaks = {name: median(peak(sides[name]) for _ in range(REPETITIONS)) for name in CONVOLUTIONS}
    figures = [Figure("one pass", gigaflop(), "GFLOP", note=processor())]
    middle = {key: Rate(median(r.wall for r in rates), median(r.cpu for r in rates)) for key, rates in found.items()}
    for direction in DIRECTIONS:
        wall = {name: max((middle[name, direction, t].wall, t) for t in THREADS) for name in sides}
        cpu = {name: middle[name, direction, 1].cpu for name in sides}
        for name, (value, threads) in wall.items():
            note = f"batch {best[name, threads]}, {threads} threads; {cpu[name]:,.0f} a core-second at {best[name, 1]}"
            figures.append(Figure(f"{name}, {direction}", value, "images/s", note=note))
        for name, target in ((OURS, 1.5), (MIXED, 2.5)):
            for other, bound in ((FREIA, target), (KEPT, None)):
                what = f"{name} against {other}, {direction}"
                figures.append(Figure(f"{what}, wall clock", wall[name][0] / wall[other][0], "×", bound))
                figures.append(Figure(f"{what}, CPU time, 1 thread", cpu[name] / cpu[other], "×", bound))
    for name, top in peaks.items():
        share = 100 * middle[name, "forward", 1].cpu * gigaflop() / top
        note = f"128 → 128 channels at 14×14, channels last, 1 thread: {top:,.0f} GFLOP a core-second"
        figures.append(Figure(f"{name}: share of its convolution's peak", share, "%", note=note))
        figures += where_time_goes(name)
    return figures + round_trips()


def records() -> list[Figure]:
    """Records a second from pixels to PNG: ours in one call, and a plain loop around FrEIA that saves each image."""
    figures: list[Figure] = []
    rates: dict[str, list[Rate]] = {name: [] for name in (FREIA, OURS, CHOSEN)}
    with ExitStack() as stack:
        sides = {name: stack.enter_context(side(name)) for name in rates}
        for _ in range(REPETITIONS):
            for name, running in sides.items():
                rates[name].append(rate(running, "records", RECORDS, 1, SECONDS))
    theirs = Rate(median(r.wall for r in rates[FREIA]), median(r.cpu for r in rates[FREIA]))
    figures.append(Figure("loop of 16 through FrEIA, a file each", theirs.cpu, "records/core-s"))
    for name in (OURS, CHOSEN):
        cpu, wall = median(r.cpu for r in rates[name]), median(r.wall for r in rates[name])
        figures.append(Figure(f"{name}, encode to PNG", cpu, "records/core-s"))
        note = f"{wall / theirs.wall:.2f} by the wall clock"
        if name == CHOSEN:
            ready = prepared(ours(OURS))
            note += f"; subnets in {str(ready.subnets).removeprefix('torch.')}, round trip {ready.round_trip:.0e}"
        target = 2.5 if name == CHOSEN else None
        figures.append(Figure(f"{name}, against the loop", cpu / theirs.cpu, "×", target, note=note))
    return figures


# What runs in a process of its own


def works(name: str, kind: str, batch: int) -> Work:
    """The work of one side on one batch."""
    x = torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(1))
    z = torch.randn(batch, DIMS, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(batch) % CLASSES
    if kind == "convolution":
        return convolution(CONVOLUTIONS[name], batch)
    if name in (FREIA, KEPT):
        network = graph(SHAPE).eval()
        conditions = partial(conditions_of, network)
        if kind == "records":
            return partial(plain_loop, network, x, labels)
        given, planes = conditions(one_hot(labels)), x.permute(0, 3, 1, 2).contiguous()
        return partial(network, z, given, rev=True) if kind == "inverse" else partial(network, planes, given)
    flow = ours(name)
    if kind == "records":
        return partial(one_call, flow, x, labels)
    return partial(flow.decode, z, labels) if kind == "inverse" else partial(flow.encode, x, labels)


def ours(name: str) -> ConditionalFlow:
    """The same weights. Subnets of low precision belong to a float64 flow, or every coupling loses digits."""
    flow = import_published(graph(SHAPE).state_dict())
    if name == CHOSEN:
        return prepared(flow).flow
    return flow.double().use_compute_dtype(torch.bfloat16) if name == MIXED else flow


def one_hot(labels: Tensor) -> Tensor:
    """`(n, 10)` float32."""
    return torch.nn.functional.one_hot(labels, CLASSES).to(torch.float32)


def convolution(dtype: torch.dtype, batch: int) -> Work:
    """The network's main convolution alone."""
    layer = torch.nn.Conv2d(128, 128, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(batch, 128, 14, 14).to(dtype).contiguous(memory_format=torch.channels_last)
    return partial(layer, x)


def one_call(flow: ConditionalFlow, x: Tensor, labels: Tensor) -> None:
    """Our record path, its records written one after the other as a run has them."""
    pixels = (x.numpy() * 255).round().astype(np.uint8)
    made = plan_mechanism("gaussian", epsilon=8.0, delta=1e-6, content_dims=DIMS)
    batch = Batch(pixels, labels.numpy(), np.ones(len(pixels), dtype=np.bool_))
    with tempfile.TemporaryFile() as sink:
        for record in privatize_batch(flow, made, batch):
            sink.write(pack_released(record))


def plain_loop(network: torch.nn.Module, x: Tensor, labels: Tensor) -> None:
    """What a script would do: clip, float noise, one file an image."""
    norm, sigma = DIMS**0.5, 4.0
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(x), 16):
            part = slice(start, start + 16)
            given = conditions_of(network, one_hot(labels[part]))
            z, _ = network(x[part].permute(0, 3, 1, 2), given)
            z = z * (norm / z.norm(dim=1, keepdim=True)).clamp(max=1)
            back, _ = network(z + sigma * torch.randn_like(z), given, rev=True)
            pixels = (back.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
            for row, image in enumerate(pixels):
                Image.fromarray(image[0]).save(Path(folder) / f"{start + row}.png")


def answer(name: str, lines: TextIO) -> None:
    """Answer every line `kind batch threads seconds` with the two rates."""
    if name == KEPT:
        keep_freed_memory()
    known: dict[tuple[str, int], Work] = {}
    for line in lines:
        kind, *numbers = line.split()
        batch, threads, seconds = int(numbers[0]), int(numbers[1]), float(numbers[2])
        torch.set_num_threads(threads)
        if fresh := (kind, batch) not in known:
            known[kind, batch] = works(name, kind, batch)
        work = known[kind, batch]
        with torch.inference_mode():
            if fresh:
                work()
            wall, cpu, done = time.perf_counter(), time.process_time(), 0
            while done == 0 or time.process_time() - cpu < seconds:
                work()
                done += batch
            sys.stdout.write(f"{done / (time.perf_counter() - wall)} {done / (time.process_time() - cpu)}\n")
            sys.stdout.flush()


# Asking it


@contextmanager
def side(name: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that answers for one side."""
    command = [sys.executable, "-m", "tests.benchmarks.cinn", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        cast(TextIO, process.stdin).close()


def rate(process: "subprocess.Popen[str]", kind: str, batch: int, threads: int, seconds: float) -> Rate:
    """Ask for one measurement."""
    sink, source = cast(TextIO, process.stdin), cast(TextIO, process.stdout)
    sink.write(f"{kind} {batch} {threads} {seconds}\n")
    sink.flush()
    wall, cpu = source.readline().split()
    return Rate(float(wall), float(cpu))


def peak(process: "subprocess.Popen[str]") -> float:
    """GFLOP a core-second of the main convolution alone, at its best batch."""
    return max(rate(process, "convolution", n, 1, 0.3).cpu for n in (16, 64, 256)) * 2 * 128 * 128 * 9 * 196 * 1e-9


# What else there is to say


def gigaflop() -> float:
    """Of one image's pass."""
    flow = ours(OURS)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        flow.encode(torch.zeros(1, *SHAPE), torch.zeros(1, dtype=torch.int64))
    return float(counter.get_total_flops()) * 1e-9


def processor() -> str:
    """What of this processor's matters to low precision."""
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    has = [
        f"{word} {'yes' if word.lower().replace('-', '_') in flags else 'no'}" for word in ("AVX512-BF16", "AMX-BF16")
    ]
    return f"{torch.backends.cpu.get_cpu_capability()}; {', '.join(has)}; torch {torch.__version__}"


def where_time_goes(name: str, batch: int = 128) -> list[Figure]:
    """Shares of a forward pass on one thread, by a profile."""
    flow, x, labels = ours(name), torch.rand(batch, *SHAPE), torch.arange(batch) % CLASSES
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        flow.encode(x, labels)
        with profile(record_shapes=True) as profiled:
            flow.encode(x, labels)
    torch.set_num_threads(threads)
    times: dict[str, float] = {}
    for event in profiled.key_averages(group_by_input_shape=True):
        part = "all else: elementwise, copies, dense layers"
        if event.key == "aten::mkldnn_convolution":
            wide = list(event.input_shapes[1][:2]) == [128, 128]
            part = (
                f"128 → 128 at {event.input_shapes[0][2]}×{event.input_shapes[0][3]}" if wide else "thin convolutions"
            )
        times[part] = times.get(part, 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    parts = sorted(times.items(), key=lambda item: -item[1])
    return [
        Figure(f"{name}: {part}", 100 * value / total, "% of a pass", note=f"batch {batch}") for part, value in parts
    ]


def round_trips() -> list[Figure]:
    """The check that every model must pass before it is used, and why subnets of bfloat16 want float64 coordinates."""
    single = import_published(graph(SHAPE).state_dict()).use_compute_dtype(torch.bfloat16)
    return [
        *(
            Figure(f"{name}: round trip", check_round_trip(ours(name)), "", ROUND_TRIP_LIMIT, most=True)
            for name in CONVOLUTIONS
        ),
        Figure("bfloat16 subnets in a float32 flow: round trip", check_round_trip(single), "", note="refused for use"),
    ]


if __name__ == "__main__":
    answer(sys.argv[1], sys.stdin)
