"""Measure `sgn classify` against its parts: the engine alone, Pillow alone, and its memory over many inputs.

    python -m benchmarks.classify

Writes results/classify.json. Small PNG files are compared with the engine, which gets the decoded pictures. A plain
program runs beside them: threads that read, decode with Pillow, and classify, without a cage and without rows. So do
processes that only read and decode them with Pillow: the time that these take limits every program. JPEG
files of 12 megapixels are compared with processes that decode them with Pillow at half their size, one for each core.
All alternate over the rounds. The memory is that of the command and of its processes, over links to few files.
"""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.command_line import ROOT, add_out, command_parser, errors_told, write_result
from benchmarks.provenance import commit, processor, versions
from sgn_serve.classify.chunks import AT_ONCE, ChunkClassifier
from sgn_serve.classify.formats import FORMATS
from sgn_serve.classify.inputs import Found, write_inputs
from sgn_serve.classify.progress import Progress
from sgn_serve.classify.run import classify_chunks
from sgn_serve.classify.unfinished import Manifest, PartsFolder
from sgn_serve.common.markdown import table
from sgn_serve.inference.classifier import ENGINE_NAMES
from sgn_serve.inference.graph import read_graph
from sgn_serve.pictures import decoding
from sgn_serve.process.cores import usable_cores
from sgn_serve.serving.engine_choice import FLOAT32, start_chosen
from sgn_serve.setting_types import ONNX_RUNTIME
from sgn_serve.settings import Settings, current_settings

RESULT = ROOT / "results" / "classify.json"
CHUNK = 1024
LARGE = (4000, 3000)
AIMS = {"PNG files on the engine that is chosen": ("small", 0.95), "JPEG files": ("large", 0.8)}
"""Wanted ratios of the command to the part alone, with their place in the result."""
_SAMPLE_SECONDS = 0.5
_WARM_SHARE = 0.25
"""Share of the rows after which the memory should grow no more."""


@dataclass(frozen=True)
class Speed:
    """Hold what one way of doing the same work took.

    Attributes:
        pictures_a_second: Pictures a second of wall-clock time.
        cpu_ms: Processor time of all processes for each picture, in milliseconds.
    """

    pictures_a_second: float
    cpu_ms: float


def measure(work: Callable[[], object], pictures: int) -> Speed:
    """Run some work and return its speed. The processes that it uses must live before and after it."""
    began, cpu = time.perf_counter(), _cpu_seconds()
    work()
    seconds, spent = time.perf_counter() - began, _cpu_seconds() - cpu
    return Speed(round(pictures / seconds, 2), round(1000 * spent / pictures, 4))


def small_pictures(settings: Settings, count: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Compare the command with the engine alone, on PNG files of the network's size."""
    classifier, choice = start_chosen(graph := read_graph(settings.model_path), settings, None, AT_ONCE)
    height, width = graph.description.image_size
    files = folder / f"small-{choice.engine}"
    files.mkdir()
    for number in range(count):
        _picture(number, (width, height)).save(files / f"{number:06d}.png")
    paths = sorted(files.iterdir())
    images = np.stack([decoding.decode(path.read_bytes(), (height, width), 10**8) for path in paths])
    block = settings.self_gradient is not False and graph.description.has_block

    def answer(begin: int) -> None:
        classifier.logits(images[begin : begin + settings.max_batch], block)

    def read_and_answer(begin: int) -> None:
        read = [_plainly_decoded(path) for path in paths[begin : begin + settings.max_batch]]
        classifier.logits(np.stack(read), block)

    fresh = multiprocessing.get_context("spawn")  # a forked process would hold locks of the engine's threads
    # Another choice might be another engine. Both run as many batches at once.
    with (
        ProcessPoolExecutor(usable_cores(), fresh) as pool,
        ChunkClassifier(settings, choice) as chunks,
        ThreadPoolExecutor(classifier.at_once) as threads,
    ):
        ways: dict[str, Callable[[], object]] = {
            "engine": lambda: list(threads.map(answer, range(0, count, settings.max_batch))),
            "pillow": lambda: list(pool.map(_plain_bytes, paths, chunksize=settings.max_batch)),
            "plain": lambda: list(threads.map(read_and_answer, range(0, count, settings.max_batch))),
            "classify": partial(_classify, chunks, files, folder),
        }
        found = _alternate(ways, count, rounds, "engine")
    return {"engine": f"{ENGINE_NAMES[choice.engine]}, {choice.precision or FLOAT32}", **found}


def _plain_bytes(path: Path) -> int:
    """Read and decode a picture, and return its number of bytes: its pixels would have to be sent."""
    return _plainly_decoded(path).nbytes


def _plainly_decoded(path: Path) -> NDArray[np.float32]:
    """Decode a picture of the network's size with Pillow alone: RGB in [0, 1], (3, height, width)."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.float32).transpose(2, 0, 1) / np.float32(255)


def large_pictures(settings: Settings, count: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Compare the command with Pillow alone, on JPEG files of 12 megapixels."""
    files = folder / "large"
    files.mkdir()
    for number in range(count):
        noise = _picture(number, (LARGE[0] // 8, LARGE[1] // 8)).resize(LARGE, Image.Resampling.BICUBIC)
        noise.filter(ImageFilter.GaussianBlur(1)).save(files / f"{number:04d}.jpg", quality=90)
    paths = sorted(files.iterdir())
    size = read_graph(settings.model_path).description.image_size
    with ProcessPoolExecutor(usable_cores()) as pool, ChunkClassifier(settings) as chunks:
        list(pool.map(partial(with_pillow, size=size), paths[: usable_cores()]))  # the processes start here
        ways: dict[str, Callable[[], object]] = {
            "pillow": lambda: list(pool.map(partial(with_pillow, size=size), paths)),
            "uncaged": lambda: list(pool.map(partial(without_cage, size=size), paths)),
            "classify": partial(_classify, chunks, files, folder),
        }
        found = _alternate(ways, count, rounds, "pillow")
    found["file_bytes"] = round(statistics.mean(path.stat().st_size for path in paths))
    return found


def with_pillow(path: Path, size: tuple[int, int]) -> int:
    """Decode a picture at half its size and shrink it, as the service does, with Pillow alone."""
    with Image.open(path) as picture:
        picture.draft("RGB", (picture.width // 2, picture.height // 2))
        return len(picture.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR).tobytes())


def without_cage(path: Path, size: tuple[int, int]) -> int:
    """Decode a picture as the service does, in this process."""
    return decoding.decode(path.read_bytes(), size, 10**8).size


def memory(links: int, folder: Path) -> dict[str, Any]:
    """Run the command over links to few files, and return its memory on the way, in MB."""
    files, linked = folder / "files", folder / "links"
    files.mkdir()
    linked.mkdir()
    for number in range(8):
        _picture(number, (32, 32)).save(files / f"{number}.png")
    (files / "8.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    for number in range(links):
        (linked / f"{number:07d}.png").symlink_to(files / f"{number % 9}.png")
    output = folder / "links.parquet"
    command = [sys.executable, "-m", "sgn_serve.classify", str(linked), "--out", str(output), "--self-gradient", "off"]
    samples: list[tuple[float, float]] = []
    parts = output.with_name(output.name + ".parts")
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said) as process,
    ):
        own = psutil.Process(process.pid)
        while process.poll() is None:
            done = len(list(parts.glob("*.part"))) * CHUNK / links if parts.exists() else 0.0
            samples.append((done, _memory_mb(own)))
            time.sleep(_SAMPLE_SECONDS)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"the command ended with status {process.returncode}: {said.read().strip()}")
    start = max((mb for done, mb in samples if not done), default=0.0)
    warm = max((mb for done, mb in samples if 0 < done <= _WARM_SHARE), default=0.0)
    later = max((mb for done, mb in samples if done > _WARM_SHARE), default=0.0)
    return {
        "links": links,
        "peak_mb_before_the_first_part": round(start, 1),
        "peak_mb_until_a_quarter": round(warm, 1),
        "peak_mb_after": round(later, 1),
        "growth_mb": round(later - warm, 1),
        "output_mb": round(output.stat().st_size / 1e6, 1),
    }


def _classify(chunks: ChunkClassifier, files: Path, folder: Path) -> None:
    """Do what the command does once its network has started: list, read, decode, classify, write, put together."""
    output = folder / "answers.parquet"
    output.unlink(missing_ok=True)
    found = Found()
    with PartsFolder(output, FORMATS[".parquet"]) as parts, open(os.devnull, "w") as nowhere:
        parts.list_inputs(lambda file: write_inputs([str(files)], None, file, found))
        manifest = Manifest({}, [], found.count, CHUNK)
        parts.begin(manifest)
        with Progress(nowhere) as bar:
            classify_chunks(chunks, parts, manifest, FORMATS[".parquet"], bar)
        parts.finish()


def _alternate(ways: dict[str, Callable[[], object]], pictures: int, rounds: int, base: str) -> dict[str, Any]:
    """Measure each way once a round. Return the speeds, and the median ratios to one of the ways."""
    for work in ways.values():
        work()
    measured: dict[str, list[Speed]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            measured[name].append(measure(work, pictures))

    def ratios_of(name: str) -> list[float]:
        pairs = zip(measured[name], measured[base], strict=True)
        return [one.pictures_a_second / other.pictures_a_second for one, other in pairs]

    ratios = ratios_of("classify")
    cpu = [  # the clock of processor time ticks every 10 ms, so that few pictures may take none
        other.cpu_ms / one.cpu_ms
        for one, other in zip(measured["classify"], measured[base], strict=True)
        if one.cpu_ms > 0
    ]
    return {
        "pictures": pictures,
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        **({"plain_ratio": round(statistics.median(ratios_of("plain")), 4)} if "plain" in ways else {}),
        **({"most_ratio": round(_most_ratio(ratios_of("pillow")), 4)} if base == "engine" and "pillow" in ways else {}),
        "cpu_ratio": round(statistics.median(cpu), 4) if cpu else None,
        "rounds": {name: [asdict(speed) for speed in speeds] for name, speeds in measured.items()},
    }


def _most_ratio(decoding: list[float]) -> float:
    """Return the largest share of the engine's speed that a program can reach which decodes with Pillow.

    The engine keeps all cores busy, and so do the processes that decode. Whoever does both needs the sum of the times.

    Args:
        decoding: Speed of reading and decoding, as a multiple of the engine's, in each round.
    """
    return statistics.median(ratio / (1 + ratio) for ratio in decoding)


def _picture(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a picture that compresses about as a photograph does: noise over a gradient."""
    generator = np.random.default_rng(number)
    width, height = size
    ramp = np.linspace(0, 200, width)[None, :, None] + np.linspace(0, 40, height)[:, None, None]
    noisy = ramp + generator.normal(0, 12, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _processes(own: psutil.Process) -> list[psutil.Process]:
    try:
        return [own, *own.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_seconds() -> float:
    total = 0.0
    for process in _processes(psutil.Process()):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        # A decoder that ends within a round counts among its parent's ended children; Linux alone tells them.
        total += times.user + times.system + getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
    return total


def _memory_mb(own: psutil.Process) -> float:
    """Return the memory that only these processes have in use."""
    total = 0
    for process in _processes(own):
        try:
            total += process.memory_full_info().uss
        except psutil.Error:
            continue
    return total / 1e6


def speed_table(result: dict[str, Any]) -> str:
    """Return the speeds and their ratios as Markdown: medians of the rounds, with the range of the ratio."""
    parts = [
        *((name, "engine", f"32x32 PNG, {result[name]['engine']}") for name in result if name.startswith("small")),
        ("large", "pillow", "12-megapixel JPEG, Pillow"),
    ]
    lines = []
    for name, part, words in parts:
        rounds = result[name]["rounds"]
        alone, command = (
            statistics.median(one["pictures_a_second"] for one in rounds[way]) for way in (part, "classify")
        )
        ratios = result[name]["ratios"]
        lines.append(
            (
                words,
                f"{alone:,.1f}",
                f"{command:,.1f}",
                f"{result[name]['ratio']:.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                "-" if result[name]["cpu_ratio"] is None else f"{result[name]['cpu_ratio']:.2f}",
            )
        )
    header = ("pictures, and the part alone", "part, pictures/s", "command, pictures/s", "command / part")
    return table((*header, "in the rounds", "part / command, processor time"), lines, "lrrrrr")


def shown(result: dict[str, Any]) -> str:
    """Return the speeds and the memory as Markdown, if all of them were measured."""
    if not {"small", "large", "memory"} <= result.keys():
        return "Not measured yet."
    memory = result["memory"]
    peak = max(value for name, value in memory.items() if name.startswith("peak"))
    missed = [f"{aim} for {what}" for what, (name, aim) in AIMS.items() if result[name]["ratio"] < aim]
    aims = f"Missed: {' and '.join(missed)}." if missed else "Both are reached."
    name, amx = result["processor"].split(" (")[0], "amx_bf16" in result["processor"]
    plain = _small_parts(result, "plain_ratio", "a plain program reached {:.2f} of the engine alone")
    if plain:
        plain += "\nThis program reads, decodes with Pillow and classifies in threads, without a cage and without rows."
    limit = _small_parts(result, "most_ratio", "no program that opens each file with Pillow can reach more than {:.2f}")
    if limit:
        limit += (
            "\nThis limit is computed: reading and decoding with Pillow alone takes its share of the same cores."
            " The command opens plain PNG files itself, which takes half the time."
        )
    return (
        f"On {result['cores']} cores of {name}, {'with' if amx else 'without'} AMX:\n\n"
        f"{speed_table(result)}\n\n"
        f"The aims were {' and '.join(f'{aim} for {what}' for what, (_, aim) in AIMS.items())}. {aims}"
        f"{plain}{limit}\n\n"
        f"Over {memory['links']:,} inputs the memory was {peak:.0f} MB at most. "
        f"After the first quarter it grew by {max(0.0, memory['growth_mb']):.0f} MB."
    )


def _small_parts(result: dict[str, Any], figure: str, words: str) -> str:
    """Return a line for each engine that has a figure of small pictures."""
    parts = [part for name, part in result.items() if name.startswith("small") and figure in part]
    return "".join(f"\nOn {part['engine']}, {words.format(part[figure])}." for part in parts)


@errors_told
def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = command_parser("benchmarks.classify", __doc__)
    parser.add_argument("--small", type=int, default=16384, help="PNG files (default: %(default)s)")
    parser.add_argument("--large", type=int, default=256, help="JPEG files of 12 megapixels (default: %(default)s)")
    parser.add_argument("--links", type=int, default=200_000, help="inputs of the measurement of memory; 0 for none")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    add_out(parser, RESULT, "file to write")
    options = parser.parse_args(arguments)
    settings = current_settings()
    result: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.classify", *(sys.argv[1:] if arguments is None else arguments)]),
        "git_commit": commit(),
        "processor": processor(),
        "cores": usable_cores(),
        "versions": versions(["onnxruntime", "openvino", "pillow", "numpy", "pyarrow"]),
    }

    def save(**measured: dict[str, Any]) -> None:
        """Write what is measured so far: a fault in a later part costs nothing of it."""
        result.update(measured)
        write_result(options.out, result)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.small:
            save(small=small_pictures(settings, options.small, options.rounds, folder))
            if not result["small"]["engine"].startswith(ENGINE_NAMES[ONNX_RUNTIME]):
                slower = settings.model_copy(update={"engine": ONNX_RUNTIME})
                count = max(1, options.small // 2)
                save(small_onnxruntime=small_pictures(slower, count, options.rounds, folder))
        if options.large:
            save(large=large_pictures(settings, options.large, options.rounds, folder))
        if options.links:
            save(memory=memory(options.links, folder))
    rows = [
        (name, str(result[name]["ratio"]), str(result[name]["cpu_ratio"]))
        for name in ("small", "small_onnxruntime", "large")
        if name in result
    ]
    if rows:
        print(table(("pictures", "pictures/s, against the part alone", "by processor time"), rows, "lrr"))
    if "memory" in result:
        print(json.dumps(result["memory"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
