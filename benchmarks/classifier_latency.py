"""How fast NVIDIA's classifier answers, and what it costs: every way to run it, beside the library's model.

    python -m benchmarks.classifier_latency            some twelve minutes; makes a random model first
    python -m benchmarks.classifier_latency --quick    a minute: few repetitions, without the whole service
    python -m benchmarks.classifier_latency --weights FOLDER --json FILE

Random weights of the real size take the time of the real ones. Ways are measured in turns, a few texts each, so that
what else the machine does meets all of them; the times are from text to answer, the median of all texts, each another
one. The random model is kept under ARMWISE_CACHE, XDG_CACHE_HOME/armwise or ~/.cache/armwise.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.classifier_variants import MIXES, Variant, Worker
from benchmarks.processes import machine
from benchmarks.random_classifier import build
from service.classifiers.nvidia.gate import packaged_prompts
from service.classifiers.nvidia.heads import SLICES, answer_of, probabilities_of
from service.classifiers.nvidia.records import cache_folder

RESULTS = Path(__file__).parent / "results" / "classifier_latency.json"
LENGTHS = (16, 32, 64, 128, 512)
CALLERS, WORKERS = 32, 2
PACKAGES = ("onnxruntime", "onnx", "torch", "transformers", "tokenizers", "numpy")
VARIANTS = (
    Variant("library fp32, padded to 512", "padded", "fp32", 2),
    Variant("library fp32", "library", "fp32", 1),
    Variant("library fp32", "library", "fp32", 2),
    Variant("torch fp32", "torch", "fp32", 1),
    Variant("torch fp32", "torch", "fp32", 2),
    Variant("torch bf16", "torch", "bf16", 1),
    Variant("torch bf16", "torch", "bf16", 2),
    Variant("ONNX fp32", "onnx", "fp32", 1),
    Variant("ONNX fp32", "onnx", "fp32", 2),
    Variant("ONNX int8", "onnx", "int8", 1),
    Variant("ONNX int8", "onnx", "int8", 2),
)
REFERENCE = VARIANTS[2]
# Milliseconds at most, by name, threads and tokens.
AT_MOST = {
    **{("ONNX fp32", 2, tokens): limit for tokens, limit in ((16, 18), (32, 26), (64, 43), (128, 80))},
    **{("ONNX int8", 2, tokens): limit for tokens, limit in ((16, 8), (32, 12), (64, 20), (128, 41))},
    ("ONNX int8", 1, 32): 16,
}


def rounds(variant: Variant, length: int, *, quick: bool) -> tuple[int, int]:
    """How many turns, and texts in each."""
    if variant.backend == "padded":
        return (1, 1) if quick else (2, 2)
    if variant.backend == "library" or length == 512:
        return (1, 3) if quick else (3, 3)
    return (2, 5) if quick else (10, 6)


def latencies(workers: list[Worker], *, quick: bool) -> dict[int, dict[int, list[float]]]:
    """Milliseconds by number of the worker and tokens."""
    found: dict[int, dict[int, list[float]]] = {number: {} for number in range(len(workers))}
    for length in LENGTHS[:2] if quick else LENGTHS:
        for turn in range(10):
            for number, worker in enumerate(workers):
                turns, count = rounds(worker.variant, length, quick=quick)
                if turn < turns:
                    found[number].setdefault(length, []).extend(worker("latency", length, count))
        print(f"  {length} tokens measured", file=sys.stderr)
    return found


def drift(reference: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """How far answers are from the library's."""
    off = np.abs(probabilities_of(reference) - probabilities_of(logits))
    complexity = [np.array([answer_of(row).prompt_complexity_score for row in rows]) for rows in (reference, logits)]
    tasks = SLICES["task_type"]
    return {
        "max_probability": float(off.max()),
        "mean_probability": float(off.mean()),
        "mean_complexity": float(np.abs(complexity[0] - complexity[1]).mean()),
        "task_agreement": float((reference[:, tasks].argmax(1) == logits[:, tasks].argmax(1)).mean()),
    }


def loads(variant: Variant, folder: Path, count: int) -> list[float]:
    """Seconds from nothing imported to ready, self-test and digest included, each in a new process."""
    found = []
    for _ in range(count):
        worker = Worker(variant, folder)
        found.append(worker("loaded"))
        worker.end()
    return found


def exports(folder: Path) -> dict[str, float]:
    """Seconds to the first answer, without an export from before."""
    found = {}
    for precision in ("fp32", "int8"):
        for path in folder.glob(f"armwise-*-{precision}-*.safetensors"):
            path.unlink()
        found[precision] = loads(Variant("", "onnx", precision, 1), folder, 1)[0]
    return found


def whole_service(folder: Path, precision: str, seconds: float) -> dict[str, Any]:
    """What benchmarks/classifier_load.py finds."""
    with tempfile.TemporaryDirectory(prefix="armwise-classifier-latency-") as name:
        out = Path(name) / "figures.json"
        command = [sys.executable, "-m", "benchmarks.classifier_load", "--weights", str(folder), "--out", str(out)]
        command += ["--precision", precision, "--seconds", str(seconds)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        figures: dict[str, Any] = json.loads(out.read_bytes())["nvidia"]
    return figures


def measure(folder: Path, *, quick: bool) -> dict[str, Any]:
    """All figures."""
    print("exporting and loading", file=sys.stderr)
    cold = exports(folder)
    workers = [Worker(variant, folder) for variant in VARIANTS]
    rows: list[dict[str, Any]] = []
    for worker in workers:
        again = worker.variant.backend == "onnx" and worker.variant.threads == 1 and not quick
        seconds = [worker("loaded"), *loads(worker.variant, folder, 4 if again else 0)]
        rows.append({**worker.variant._asdict(), "load_s": seconds})
    print("latency", file=sys.stderr)
    by_worker = latencies(workers, quick=quick)
    prompts = [prompt for prompt in packaged_prompts() if len(prompt) < 1500][:: 6 if quick else 2]
    compared = [worker for worker in workers if worker.variant.threads == 2 and worker.variant.backend != "padded"]
    logits = {worker.variant: worker("all_logits", prompts) for worker in compared}
    print("  drift measured", file=sys.stderr)
    for number, (row, worker) in enumerate(zip(rows, workers, strict=True)):
        row["latency_ms"] = {
            str(tokens): {"p50": float(np.median(found)), "p95": float(np.percentile(found, 95)), "min": min(found)}
            | {"texts": len(found)}
            for tokens, found in by_worker[number].items()
        }
        if worker.variant in logits:
            row["drift"] = drift(logits[REFERENCE], logits[worker.variant])
    print("throughput", file=sys.stderr)
    for row, worker in zip(rows, workers, strict=True):
        alone = worker.variant.backend == "library" and worker.variant.threads == 2
        if alone or (worker.variant.backend not in {"library", "padded"} and worker.variant.threads == 1):
            row["throughput"] = {
                mix: worker("throughput", mix, CALLERS, WORKERS, 3.0 if quick else 8.0) for mix in MIXES
            }
        row["memory_mb"] = worker("memory")
        worker.end()
    service = {}
    if not quick:
        print("the whole service", file=sys.stderr)
        service = {precision: whole_service(folder, precision, 15.0) for precision in ("fp32", "int8")}
    return {"prompts_compared": len(prompts), "export_s": cold, "rows": rows, "service": service}


def targets(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Every figure that has a target."""
    found: list[dict[str, Any]] = []

    def judge(name: str, value: float, limit: float, *, at_least: bool = False) -> None:
        met = value >= limit if at_least else value <= limit
        found.append({"figure": name, "found": value, "target": limit, "at_least": at_least, "met": bool(met)})

    for row in figures["rows"]:
        for (name, threads, tokens), limit in AT_MOST.items():
            if (row["name"], row["threads"]) == (name, threads) and str(tokens) in row["latency_ms"]:
                p50 = row["latency_ms"][str(tokens)]["p50"]
                judge(f"{name}, {tokens} tokens, {threads} threads, p50 ms", p50, limit)
        if row["backend"] == "onnx" and row["threads"] == 1:
            judge(f"{row['name']}, load to ready from cache, s", float(np.median(row["load_s"])), 1.5)
        if (row["name"], row["threads"]) == ("ONNX int8", 1):
            judge(f"{CALLERS} callers, per second", row["throughput"]["chat"]["per_second"], 150, at_least=True)
    for precision, service in figures["service"].items():
        judge(f"whole service with {precision}, resident MB", service["memory_mb"]["resident"], 900)
        judge(f"whole service with {precision}, loop delay p99 ms", service["loop_delay_ms"]["p99"], 5)
    return found


def table(figures: dict[str, Any]) -> str:
    """Markdown."""
    lengths = [length for length in LENGTHS if str(length) in figures["rows"][-1]["latency_ms"]]
    head = [
        "",
        "threads",
        *(f"{length} tokens" for length in lengths),
        "load s",
        "resident MB",
        *(f"{mix}/s" for mix in MIXES),
    ]
    lines = [[*head, "max drift"], ["---"] * (len(head) + 1)]
    for row in figures["rows"]:
        cells = [row["latency_ms"].get(str(length)) for length in lengths]
        lines.append([
            row["name"],
            str(row["threads"]),
            *(f"{cell['p50']:.1f}" if cell else "" for cell in cells),
            f"{np.median(row['load_s']):.2f}",
            f"{row['memory_mb']['resident']:.0f}",
            *(f"{row['throughput'][mix]['per_second']:.0f}" if "throughput" in row else "" for mix in MIXES),
            f"{row['drift']['max_probability']:.0e}" if "drift" in row else "",
        ])  # fmt: skip
    if figures["service"]:
        head = ["whole service, 32 callers and upstream on the same cores", "classified/s", "loop delay p99 ms"]
        lines += [[], [*head, "resident MB"], ["---"] * 4]
    for precision, service in figures["service"].items():
        per_second, delay = service["by_model_per_second"], service["loop_delay_ms"]["p99"]
        resident = service["memory_mb"]["resident"]
        lines.append([f"ONNX {precision}", f"{per_second:.0f}", f"{delay:.1f}", f"{resident:.0f}"])
    lines += [[], ["figure", "found", "target", "met"], ["---"] * 4]
    for target in targets(figures):
        sign = "≥" if target["at_least"] else "≤"
        met = "yes" if target["met"] else "**no**"
        lines.append([target["figure"], f"{target['found']:.3g}", f"{sign} {target['target']:g}", met])
    return "\n".join("| " + " | ".join(line) + " |" if line else "" for line in lines)


def commit() -> str:
    """The commit that was measured, marked when files differ from it."""
    here = Path(__file__).parent
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions, short texts, without the whole service")
    parser.add_argument("--weights", type=Path, help="folder with weights (default: random ones of the real size)")
    parser.add_argument("--json", type=Path, help=f"file for the figures (default: {RESULTS.name}, not with --quick)")
    arguments = parser.parse_args()
    folder = arguments.weights or cache_folder() / "random-classifier-full"
    if not (folder / "model.safetensors").is_file():
        build(folder, "full")
    started, busy = time.perf_counter(), os.getloadavg()
    figures = measure(folder.resolve(), quick=arguments.quick)
    content = {
        "commit": commit(),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine() | {"load_average_before": busy},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES} | {"python": sys.version.split()[0]},
        "settings": {
            "lengths": LENGTHS, "callers": CALLERS, "workers": WORKERS, "mixes": MIXES,
            "quick": arguments.quick, "weights": "random" if arguments.weights is None else "given",
        },
        "seconds": time.perf_counter() - started,
        "targets": targets(figures),
        **figures,
    }  # fmt: skip
    out = arguments.json or (None if arguments.quick else RESULTS)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(table(figures))


if __name__ == "__main__":
    main()
