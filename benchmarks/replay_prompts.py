"""Real prompts through the running service: do the shares of good models rise, and does a restart forget nothing?

Run: ARMWISE_DATA=FOLDER python -m benchmarks.replay_prompts [--prompts 2000] [--feedback-rate 1.0] [--tiers none|real]

Reads paretobandit.train.jsonl.gz (real scores and costs of four public models per prompt) from the folder, starts
`armwise serve` with four simulated models of those names, sends each prompt as a chat call, and posts as feedback the
score that the drawn model really had on that prompt. Stops and starts the service half-way. The baselines are computed
on the same prompts in the same order.
"""

import argparse
import asyncio
import gzip
import os
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import aiohttp
import msgspec

from benchmarks.processes import Server, free_port

FILE = "paretobandit.train.jsonl.gz"
TIERS = {
    "meta-llama/llama-3.1-8b-instruct": "small",
    "mistralai/mistral-large-2512": "medium",
    "google/gemini-2.5-flash": "medium",
    "google/gemini-2.5-pro": "large",
}
WINDOW = 250
GOOD_WITHIN = 0.02  # of the best model's mean score


def outcomes(folder: Path, count: int, seed: int):
    """`count` prompts that all models answered, in seeded random order: (text, {model: score}, {model: cost})."""
    prompts = defaultdict(lambda: ("", {}, {}))
    with gzip.open(folder / FILE) as lines:
        for line in lines:
            row = msgspec.json.decode(line)
            _, scores, costs = prompts[row["prompt_id"]]
            scores[row["model"]], costs[row["model"]] = row["score"], row["cost_usd"]
            prompts[row["prompt_id"]] = (row["prompt"], scores, costs)
    whole = [found for found in prompts.values() if len(found[1]) == len(TIERS)]
    random.Random(seed).shuffle(whole)
    return whole[:count]


def settings(tiers: str) -> str:
    """The settings file: four simulated models, known to Armwise by tier, or not at all."""
    models = [
        f'[[models]]\nname = "{name}"\nprovider = "simulated"\nprofile = "{name}"\n'
        f'tier = "{tier if tiers == "real" else "medium"}"\n'
        for name, tier in TIERS.items()
    ]
    return '[database]\nurl = "sqlite:///replay.db"\n[quality]\nenabled = false\n' + "\n".join(models)


class Service:
    """`armwise serve` in a folder of its own."""

    def __init__(self, folder: Path, tiers: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "armwise.toml").write_text(settings(tiers))

    def start(self) -> None:
        command = [sys.executable, "-m", "service", "serve", "--port", str(self.port)]
        self.server = Server("armwise", command, core=0, folder=self.folder)
        self.server.wait_until(f"{self.url}/ready")

    def stop(self) -> None:
        self.server.stop()


async def send(url, prompts, rate, rng):
    """Each prompt in turn, with feedback on a share of them; the model drawn, its score and cost."""
    served = []
    async with aiohttp.ClientSession(url) as http:
        for text, scores, costs in prompts:
            body = {"messages": [{"role": "user", "content": text}]}
            async with http.post("/v1/chat/completions", json=body) as reply:
                reply.raise_for_status()
                routing = (await reply.json())["routing"]
            model = routing["model"]
            served.append((model, scores[model], costs[model]))
            if rng.random() < rate:
                feedback = {"decision_id": routing["decision_id"], "value": scores[model]}
                async with http.post("/feedback", json=feedback) as reply:
                    reply.raise_for_status()
    return served


async def posteriors(url):
    async with aiohttp.ClientSession(url) as http, http.get("/v1/posteriors") as reply:
        return (await reply.json())["cells"]


async def replay(arguments):
    prompts = outcomes(arguments.data, arguments.prompts, arguments.seed)
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), arguments.tiers)
        service.start()
        half = len(prompts) // 2
        served = await send(service.url, prompts[:half], arguments.feedback_rate, rng)
        before = await posteriors(service.url)
        service.stop()
        service.start()
        after = await posteriors(service.url)
        served += await send(service.url, prompts[half:], arguments.feedback_rate, rng)
        learned = await posteriors(service.url)
        service.stop()
    return prompts, served, before == after, learned


def report(arguments, prompts, served, survived, learned):
    means = {model: statistics.fmean(scores[model] for _, scores, _ in prompts) for model in TIERS}
    costs = {model: statistics.fmean(cost[model] for _, _, cost in prompts) for model in TIERS}
    best = max(means, key=means.__getitem__)
    good = {model for model, mean in means.items() if mean >= means[best] - GOOD_WITHIN}
    windows = []
    for start in range(0, len(served), WINDOW):
        part = served[start : start + WINDOW]
        windows.append(
            {
                "requests": f"{start + 1}-{start + len(part)}",
                "good_share": sum(model in good for model, _, _ in part) / len(part),
                "best_share": sum(model == best for model, _, _ in part) / len(part),
                "quality": statistics.fmean(score for _, score, _ in part),
                "cost_usd": statistics.fmean(cost for _, _, cost in part),
            }
        )
    rows = {f"always {model}": (means[model], costs[model]) for model in TIERS}
    rows["random"] = (statistics.fmean(means.values()), statistics.fmean(costs.values()))
    oracle = statistics.fmean(max(scores.values()) for _, scores, _ in prompts)
    rows["oracle"] = (oracle, None)
    routed = statistics.fmean(score for _, score, _ in served), statistics.fmean(cost for _, _, cost in served)
    rows["armwise"] = routed
    print(f"\n{len(prompts)} prompts, feedback on {arguments.feedback_rate:.0%}, tiers {arguments.tiers}.")
    print(f"Good, within {GOOD_WITHIN} of the best mean: {', '.join(sorted(good))}. Seed {arguments.seed}.")
    print("\n| requests | share of good models | share of the best | mean quality | mean cost (USD) |")
    print("|---|---|---|---|---|")
    for window in windows:
        print("| {requests} | {good_share:.3f} | {best_share:.3f} | {quality:.4f} | {cost_usd:.6f} |".format(**window))
    print("\n| policy | mean quality | mean cost (USD) |\n|---|---|---|")
    for name, (quality, cost) in sorted(rows.items(), key=lambda row: row[1][0]):
        print(f"| {name} | {quality:.4f} | {'-' if cost is None else f'{cost:.6f}'} |")
    labels = sum(cell["n"] for cell in learned)
    print(f"\nPosteriors equal before and after the restart: {survived}. Labels in the posteriors: {labels:g}.")
    if arguments.json:
        arguments.json.write_bytes(
            msgspec.json.encode({"windows": windows, "rows": rows, "survived": survived, "labels": labels})
        )
    return survived


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARMWISE_DATA"))
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--feedback-rate", type=float, default=1.0)
    parser.add_argument("--tiers", choices=["none", "real"], default="none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.data is None or not (Path(arguments.data) / FILE).exists():
        sys.exit(f"{FILE} was not found: name its folder with --data or ARMWISE_DATA.")
    arguments.data = Path(arguments.data)
    if not report(arguments, *asyncio.run(replay(arguments))):
        sys.exit("The posteriors changed over the restart.")


if __name__ == "__main__":
    main()
