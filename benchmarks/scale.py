"""What the papers' rows would take on 1, 8 and 64 GPUs: arithmetic, from measured worlds and assumed GPUs.

    python -m benchmarks.scale              # print the tables of docs/scale.md
    python -m benchmarks.scale --measure    # play the worlds' experts on this machine first

Of the worlds it measures turns, CPU time a turn (an episode's start included), and how long texts are, in experts'
episodes; four characters count as a token. Of GPUs it assumes what stands in `Gpu`: none was at hand. Estimates are
meant to be right within a factor of two, and to show which part is the limit.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import RESULTS, in_child, parse, save, show

WORLDS = ("scienceworld", "webshop", "intercode_sql", "bfcl", "appworld")
NUM_EPISODES = 24
CHARACTERS = 4
"""Characters of a token, on average."""
NUM_GPUS = (1, 8, 64)
HOUR = 3600.0
GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """An H100 with 80 GB, as assumed."""

    memory: float = 80 * GB
    flops: float = 350e12
    """bfloat16 operations a second that training and reading a prompt reach: 35 % of the chip's."""
    bandwidth: float = 2.0e12
    """Bytes a second that decoding reads: 60 % of the chip's."""
    links: tuple[float, float] = (400 * GB, 50 * GB)
    """Bytes a second between GPUs of a node, and of several nodes."""
    in_node: int = 8
    cores: int = 12
    """CPU cores beside each GPU, for envs."""


GPU = Gpu()


@dataclass(frozen=True, kw_only=True)
class Model:
    """What of a model matters here."""

    weights: float
    active: float
    """Weights that a token passes through."""
    cache: float
    """Bytes of keys and values a token, in bfloat16."""
    adapter: float = 0.0
    """Weights that are trained; 0: all."""


LLAMA = Model(weights=6.7e9, active=6.7e9, cache=524e3)
QWEN = Model(weights=4.0e9, active=4.0e9, cache=147e3)
QWEN_LORA = Model(weights=4.0e9, active=4.0e9, cache=147e3, adapter=33e6)
QWEN_7B = Model(weights=7.6e9, active=7.6e9, cache=57e3)
QWEN_30B = Model(weights=30.5e9, active=3.3e9, cache=98e3)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a paper's table: what is played and trained in all."""

    name: str
    model: Model
    world: str
    max_turns: int
    episodes: int
    """Played at the same time, at most: both agents' of a round, or a step's."""
    rounds: int
    """Of playing and training."""
    passes: float
    """Sequences that are trained on in a round, over the episodes of a round: epochs, expert sides, both agents."""
    batch: int
    """Sequences of an optimizer step."""
    demonstrations: int = 0
    """Cloned three times, by each agent."""
    num_agents: int = 1
    prompt: int = 1500
    """Tokens of instruction and worked example."""
    context: int = 4096
    """Most tokens of an episode."""
    thought: int = 35
    """Tokens that an agent thinks a turn, besides the expert's action."""
    turns_ratio: float = 1.3
    """An agent's turns over an expert's."""


PREFERENCES = {"rounds": 3, "num_agents": 2, "batch": 96, "passes": 3 * 5 / 2}
"""Three epochs; the failure agent's pairs have two sequences a task and the target's three; two episodes a task."""
REINFORCEMENT = {
    "episodes": 256,
    "rounds": 120,
    "passes": 1.0,
    "batch": 256,
    "max_turns": 30,
    "prompt": 3000,
    "context": 16384,
}
ROWS = (
    Row(name="Co-Evolving Agents, ScienceWorld, Llama-2-7B, full", model=LLAMA, world="scienceworld", max_turns=60,
        episodes=2 * 1483, demonstrations=1483, **PREFERENCES),
    Row(name="Co-Evolving Agents, ScienceWorld, Qwen3-4B, LoRA", model=QWEN_LORA, world="scienceworld", max_turns=60,
        episodes=2 * 1483, demonstrations=1483, **PREFERENCES),
    Row(name="Co-Evolving Agents, WebShop, Llama-2-7B, full", model=LLAMA, world="webshop", max_turns=10,
        episodes=2 * 1938, demonstrations=1938, **PREFERENCES),
    Row(name="CoEvolve, BFCL, Qwen3-4B, full", model=QWEN, world="bfcl", **REINFORCEMENT),
    Row(name="CoEvolve, AppWorld, Qwen2.5-7B, full", model=QWEN_7B, world="appworld", **REINFORCEMENT),
    Row(name="CoEvolve, AppWorld, Qwen3-30B-A3B, full", model=QWEN_30B, world="appworld", **REINFORCEMENT),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a row takes on a number of GPUs. Times are of the whole run, in seconds."""

    memory: float
    """Bytes a GPU while it trains, activations left out."""
    writing: float
    """Decoding and reading, were the GPUs always full."""
    envs: float
    """The worlds' CPU time, over all cores beside the GPUs."""
    waiting: float
    """The longest episode of each round or step, one token after another."""
    training: float
    """Arithmetic, reference log-probabilities included."""
    wire: float
    """Weights and gradients between GPUs, where they are sharded."""
    disk: float
    """Bytes: two checkpoints an agent, a state, and all trajectories."""

    @property
    def playing(self) -> float:
        return max(self.writing, self.envs, self.waiting)

    @property
    def total(self) -> float:
        return self.playing + max(self.training, self.wire)

    @property
    def wall(self) -> str:
        """The largest part."""
        parts = {"writing": self.writing, "envs": self.envs, "longest episode": self.waiting}
        parts |= {"training": self.training, "wire": self.wire}
        return max(parts, key=lambda name: parts[name])


def cost(row: Row, world: dict[str, float], num_gpus: int) -> Cost:
    """Work out what a row takes.

    Args:
        row: of a paper's table.
        world: what `measure` found of its world.
        num_gpus: GPUs, with their cores.
    """
    model = row.model
    written_a_turn = world["action_characters"] / CHARACTERS + row.thought
    read_a_turn = world["observation_characters"] / CHARACTERS
    most = min(row.max_turns, (row.context - row.prompt) / (written_a_turn + read_a_turn))
    turns = min(most, row.turns_ratio * world["turns"])
    written, read = turns * written_a_turn, turns * read_a_turn
    tokens = row.prompt + read + written
    episodes = row.episodes * row.rounds

    cache = max(model.cache, 0.9 * num_gpus * GPU.memory - num_gpus * 2 * model.weights) / num_gpus
    rows = max(1.0, min(row.episodes / num_gpus, cache / (model.cache * tokens)))
    step = (2 * model.weights + rows * tokens / 2 * model.cache) / GPU.bandwidth
    decoding = episodes * written * step / (rows * num_gpus)
    reading = episodes * (read + row.prompt) * 2 * model.active / (GPU.flops * num_gpus)
    longest = most * (written_a_turn * step + world["step_s"])

    sequences = episodes * row.passes + 3 * row.demonstrations * row.num_agents
    per_token = (6 if not model.adapter else 4) + 2 + 2 / 3  # recomputation; the reference once in three epochs
    training = sequences * tokens * per_token * model.active / (GPU.flops * num_gpus)
    link = GPU.links[num_gpus > GPU.in_node]
    a_step = 0.0 if num_gpus == 1 else (2 * 2 * model.weights + 4 * (model.adapter or model.weights)) / link
    if model.adapter and num_gpus * GPU.memory > 4 * model.weights:  # copies of the base: gradients alone travel
        a_step = 0.0 if num_gpus == 1 else 4 * model.adapter / link
    trained = model.adapter or model.weights
    kept = 16 * trained + (2 * model.weights if model.adapter else 0)
    is_copied = bool(model.adapter)
    return Cost(
        memory=kept if is_copied else kept / num_gpus,
        writing=decoding + reading,
        envs=episodes * turns * world["step_s"] / (GPU.cores * num_gpus),
        waiting=row.rounds * longest,
        training=training,
        wire=sequences / row.batch * a_step,
        disk=row.num_agents * (2 * 2 * trained + 12 * trained) + episodes * world["line_bytes"],
    )


def child(request: dict[str, Any]) -> dict[str, float]:
    """Play a world's experts in this process, and say what an episode takes."""
    import time

    from sparring.core.records import trajectory_to_json
    from sparring.envs.base import load_benchmark, select_tasks
    from sparring.envs.pool import EnvPool
    from sparring.rollouts.demonstrations import ReplayPolicy
    from sparring.rollouts.episodes import EpisodeSpec
    from sparring.rollouts.loop import rollout

    benchmark = load_benchmark(request["world"])
    tasks = select_tasks(benchmark.tasks("train"), num=2 * NUM_EPISODES)
    actions = benchmark.expert_actions(tasks)
    specs = [EpisodeSpec(id=task.id, task=task, agent="expert", seed=0) for task in tasks if task.id in actions]
    with EnvPool(request["world"], {}, num_envs=1) as pool:

        def play(part: list[EpisodeSpec]) -> tuple[list[Any], float]:
            before = pool.cpu_seconds() + time.process_time()
            found = rollout(ReplayPolicy(actions), pool, benchmark, [part], num_slots=1)
            return found, pool.cpu_seconds() + time.process_time() - before

        play(specs[:NUM_EPISODES])
        played, cpu_s = play(specs[NUM_EPISODES : 2 * NUM_EPISODES] or specs)
    turns = [turn for one in played for turn in one.turns]
    return {
        "turns": len(turns) / len(played),
        "step_s": cpu_s / len(turns),
        "observation_characters": sum(len(turn.observation) for turn in turns) / len(turns),
        "action_characters": sum(len(turn.action) for turn in turns) / len(turns),
        "line_bytes": sum(len(json.dumps(trajectory_to_json(one))) for one in played) / len(played),
    }


def main() -> None:
    """Measure the worlds where asked for, and print what the rows take."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--measure", action="store_true", help="play the worlds' experts on this machine")
    args = parse(parser, child)
    if args.measure:
        save("scale", {"worlds": {world: in_child("benchmarks.scale", {"world": world}) for world in WORLDS}})
    worlds = json.loads((RESULTS / "scale.json").read_text())["worlds"]
    names = ("turns", "step_s", "observation_characters", "action_characters", "line_bytes")
    header = ["world", "turns", "CPU-ms a turn", "characters read", "written", "bytes on disk"]
    cells = [[one[name] * (1000 if name.endswith("_s") else 1) for name in names] for one in worlds.values()]
    show(
        "An expert's episode",
        header,
        [[name, *map(round_to_two, row)] for name, row in zip(worlds, cells, strict=True)],
    )
    header = ["row", "GPUs", "GB a GPU", "playing, h", "training, h", "in all, h", "the wall", "disk, GB"]
    rows = []
    for row in ROWS:
        for num in NUM_GPUS:
            found = cost(row, worlds[row.world], num)
            fits = found.memory < GPU.memory
            times = (found.playing, max(found.training, found.wire), found.total)
            shown = [round_to_two(one / HOUR) for one in times] if fits else ["–"] * 3
            wall = found.wall if fits else "memory"
            rows.append([row.name, num, round_to_two(found.memory / GB), *shown, wall, round_to_two(found.disk / GB)])
    show("The papers' rows", header, rows)


def round_to_two(value: float) -> float:
    """Keep two digits: the estimates have no more."""
    if not value:
        return 0.0
    return round(value, 1 - math.floor(math.log10(abs(value))))


if __name__ == "__main__":
    main()
