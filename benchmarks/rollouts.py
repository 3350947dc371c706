"""Rollouts against the original pipeline: episodes per CPU-second, and the same greedy trajectories.

    python -m benchmarks.rollouts --model runs/quickstart/seed-0/sft/sft-target/checkpoint
    python -m benchmarks.rollouts --padded --num-envs 8 --num 24   # the same episodes at the cost of 108 M parameters
    python -m benchmarks.rollouts --num-examples 1  # with a worked example in every prompt, as in the paper
    python -m benchmarks.rollouts --env intercode_sql --model sparring-worlds --num-envs 32  # where envs cost nothing

    python -m benchmarks.rollouts --env intercode_sql --model FOLDER --vllm .venv-vllm/bin/python   # a server besides

The peer is the way of ETO's and the paper's code, made anew: one episode after another, the whole history encoded again
by `generate` at every turn, the package's own `env.step` (in other worlds than ScienceWorld the same env). Both sides
decode greedily in float32, on the same tokens; an episode in which they differ must do so at a near-tie of the two best
logits. CPU-seconds are Python's and Java's together, after warm-up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.env_steps import HASH, Official
from benchmarks.measure import in_child, parse, save, show

KINDS = {"scienceworld": ("find-animal", "find-living-thing", "find-non-living-thing", "find-plant")}
"""Types of task that are played; where none are named, all."""
MAX_NEW_TOKENS = {"scienceworld": 24, "intercode_sql": 80, "webshop": 48}
NEAR_TIE = 1e-4
WINDOW_S, CELLS = 2.0, 100
"""The stretch of time that the timeline shows, and its width in characters."""


def setting(request: dict[str, Any], num: int) -> tuple[Any, Any, Any, list[Any]]:
    """Return the model, the chat, the benchmark and the tasks, the same ones for both sides."""
    from benchmarks.padding import padded
    from sparring.data.chat import Chat, ChatConfig
    from sparring.envs.base import load_benchmark, select_tasks
    from sparring.models.loading import ModelConfig, load_model

    model, tokenizer = load_model(ModelConfig(path=request["model"], dtype="float32"))
    if request["padded"]:
        model = padded(model)
    benchmark = load_benchmark(request["env"])
    kinds = KINDS.get(request["env"], ())
    examples = worked_examples(benchmark, kinds, request["num_examples"])
    config = ChatConfig(format="action", instruction="", max_context=4096, num_examples=len(examples))
    chat = Chat(tokenizer, config, instruction="", examples=examples)
    return model, chat, benchmark, select_tasks(benchmark.tasks("dev"), kinds=kinds, num=num)


def worked_examples(benchmark: Any, kinds: Sequence[str], num: int) -> list[Any]:
    """Play the experts of the first training tasks: what stands in the prompt of every episode."""
    from sparring.core.types import StopReason, Trajectory, Turn
    from sparring.envs.base import select_tasks

    tasks = select_tasks(benchmark.tasks("train"), kinds=kinds, num=4 * num)
    actions = benchmark.expert_actions(tasks) if num else {}
    found: list[Any] = []
    for task in [task for task in tasks if task.id in actions][:num]:
        env, turns = benchmark.make_env(), []
        observation = env.reset(task, 0)
        for action in actions[task.id]:
            turns.append(Turn(observation=observation, text=action, action=action, reward=0.0))
            observation = env.step(action).observation
        env.close()
        rest = {"turns": tuple(turns), "final_observation": observation, "reward": 1.0, "stop": StopReason.DONE}
        found.append(Trajectory(id=task.id, task=task, agent="expert", **rest))
    return found


# ── The original's way ────────────────────────────────────────────────────────────────────────────────────────────────


class OwnStep:
    """The package's own ScienceWorld."""

    def __init__(self, benchmark: Any) -> None:
        import psutil

        self.world = Official()
        self.java = psutil.Process(self.world.java)

    def reset(self, task: Any) -> str:
        return self.world.reset(task.kind, task.data["variation"])

    def step(self, action: str) -> tuple[str, bool]:
        observation, _, is_done = self.world.step(action)
        return observation, is_done

    def cpu_seconds(self) -> float:
        return sum(self.java.cpu_times()[:2])


class SameEnv:
    """A world in this process: the env that Sparring plays."""

    def __init__(self, benchmark: Any) -> None:
        self.env = benchmark.make_env()

    def reset(self, task: Any) -> str:
        return self.env.reset(task, 0)

    def step(self, action: str) -> tuple[str, bool]:
        answer = self.env.step(action)
        return answer.observation, answer.is_done

    def cpu_seconds(self) -> float:
        return 0.0


def play_official(
    world: OwnStep | SameEnv, model: Any, chat: Any, task: Any, limit: int, max_new_tokens: int
) -> list[tuple[int, ...]]:
    """Play one episode and return each turn's tokens."""
    import torch

    from sparring.core.types import Turn

    observation = world.reset(task)
    turns: list[Turn] = []
    while len(turns) < limit:
        ids_1T = torch.tensor([chat.history(turns, observation)])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids_1T,
                attention_mask=torch.ones_like(ids_1T),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=list(chat.end_ids),
                pad_token_id=0,
            )
        token_ids = tuple(out[0, ids_1T.shape[1] :].tolist())
        text, action = chat.parse(token_ids)
        turns.append(Turn(observation=observation, text=text, action=action, reward=0.0, token_ids=token_ids))
        observation, is_done = world.step(action)
        if is_done:
            break
    return [turn.token_ids for turn in turns]


def official(request: dict[str, Any]) -> dict[str, Any]:
    """Play all tasks the original's way."""
    model, chat, benchmark, tasks = setting(request, request["warmup"] + request["num"])
    world = OwnStep(benchmark) if request["env"] == "scienceworld" else SameEnv(benchmark)
    max_new_tokens, played = MAX_NEW_TOKENS[request["env"]], {}
    started = clock = 0.0
    for i, task in enumerate(tasks):
        if i == request["warmup"]:
            clock, started = world.cpu_seconds() + time.process_time(), time.perf_counter()
        played[task.id] = play_official(world, model, chat, task, benchmark.turn_limit(task), max_new_tokens)
    cpu = world.cpu_seconds() + time.process_time() - clock
    kept = {task.id: played[task.id] for task in tasks[request["warmup"] :]}
    return {"cpu_s": cpu, "wall_s": time.perf_counter() - started, "tokens": kept}


# ── Sparring's ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Watch:
    """When the policy acted and the envs stepped, in seconds."""

    acts: list[tuple[float, float]]
    steps: list[tuple[int, float, float]]


class WatchedPolicy:
    """A policy whose acting is timed."""

    def __init__(self, inner: Any, watch: Watch) -> None:
        self.inner, self.watch = inner, watch

    def act(self, episodes: Sequence[Any], *, lane: int = 0) -> Any:
        started = time.perf_counter()
        replies = self.inner.act(episodes, lane=lane)
        self.watch.acts.append((started, time.perf_counter()))
        return replies

    def close(self, episode_id: str) -> None:
        self.inner.close(episode_id)


class WatchedPool:
    """A pool whose envs are timed."""

    def __init__(self, inner: Any, watch: Watch) -> None:
        self.inner, self.watch = inner, watch

    def _timed(self, slot: int, future: Any) -> Any:
        started = time.perf_counter()
        future.add_done_callback(lambda _: self.watch.steps.append((slot, started, time.perf_counter())))
        return future

    def reset(self, slot: int, task: Any, seed: int) -> Any:
        return self._timed(slot, self.inner.reset(slot, task, seed))

    def step(self, slot: int, action: str) -> Any:
        return self._timed(slot, self.inner.step(slot, action))

    def retries(self, slot: int) -> int:
        return self.inner.retries(slot)


def ours(request: dict[str, Any]) -> dict[str, Any]:
    """Play all tasks with Sparring's rollout."""
    from sparring.envs.pool import EnvPool
    from sparring.policies.local.policy import LocalPolicy
    from sparring.rollouts.episodes import episode_specs
    from sparring.rollouts.loop import count_lanes, cut_waves, rollout

    model, chat, benchmark, tasks = setting(request, request["warmup"] + request["num"])
    num_envs, watch = request["num_envs"], Watch([], [])
    num_lanes = count_lanes(benchmark, num_envs)
    with EnvPool(request["env"], {}, num_envs=num_envs) as pool:

        def play(part: Sequence[Any], *, is_watched: bool) -> list[Any]:
            options = {
                "temperature": 0.0,
                "max_new_tokens": MAX_NEW_TOKENS[request["env"]],
                "num_slots_per_lane": num_envs // num_lanes,
                "returns_early": num_lanes == 1,
            }
            policy = LocalPolicy(model, chat, **options)
            specs = episode_specs("benchmark", part, agent="target", seed=0, num_per_task=1)
            waves = cut_waves(specs, num_slots=num_envs, num_lanes=num_lanes)
            if is_watched:
                watched = WatchedPolicy(policy, watch), WatchedPool(pool, watch)
                return rollout(*watched, benchmark, waves, num_slots=num_envs)
            return rollout(policy, pool, benchmark, waves, num_slots=num_envs)

        play(tasks[: request["warmup"]], is_watched=False)
        clock, started = pool.cpu_seconds() + time.process_time(), time.perf_counter()
        played = play(tasks[request["warmup"] :], is_watched=True)
        cpu, wall = pool.cpu_seconds() + time.process_time() - clock, time.perf_counter() - started
    return {
        "cpu_s": cpu,
        "wall_s": wall,
        "tokens": {t.task.id: [turn.token_ids for turn in t.turns] for t in played},
        "acting": sum(end - start for start, end in watch.acts) / wall,
        "envs": [sum(e - s for slot, s, e in watch.steps if slot == env) / wall for env in range(num_envs)],
        "idle": 1 - _covered([*watch.acts, *((s, e) for _, s, e in watch.steps)]) / wall,
        "timeline": timeline(watch, num_envs),
    }


def served(request: dict[str, Any]) -> dict[str, Any]:
    """Play all tasks with Sparring's rollout on a vLLM server, whose processes count."""
    import psutil

    from sparring.engines.local import FullEngine
    from sparring.engines.served import ServedEngine, Serving
    from sparring.envs.pool import EnvPool
    from sparring.models.loading import ModelConfig
    from sparring.models.lora import LoraConfig
    from sparring.policies.factory import Sampling
    from sparring.policies.vllm.config import SamplerConfig, VllmConfig
    from sparring.rollouts.episodes import episode_specs
    from sparring.rollouts.loop import rollout

    _, chat, benchmark, tasks = setting(request, request["warmup"] + request["num"])
    num_envs, max_new = request["num_envs"], MAX_NEW_TOKENS[request["env"]]
    model = ModelConfig(path=request["model"], dtype="float32")
    serving = Serving(
        sampler=SamplerConfig(kind="vllm"),
        vllm=VllmConfig(launch=True, python=request["vllm"]),
        max_context=chat.config.max_context,
        num_envs=num_envs,
        log_file=Path("benchmarks/results/vllm.log"),
    )
    engine = ServedEngine(FullEngine(model, lambda *_: chat), model, LoraConfig(), serving)

    def cpu_seconds() -> float:
        times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
        return time.process_time() + sum(one.user + one.system for one in times)

    try:
        with EnvPool(request["env"], {}, num_envs=num_envs) as pool:
            policy = engine.policy(request["model"], Sampling(temperature=0.0, max_new_tokens=max_new))
            specs = episode_specs("benchmark", tasks, agent="target", seed=0, num_per_task=1)
            rollout(policy, pool, benchmark, [specs[: request["warmup"]]], num_slots=num_envs)
            clock, started = cpu_seconds(), time.perf_counter()
            played = rollout(policy, pool, benchmark, [specs[request["warmup"] :]], num_slots=num_envs)
            cpu, wall = cpu_seconds() - clock, time.perf_counter() - started
    finally:
        engine.close()
    return {"cpu_s": cpu, "wall_s": wall, "tokens": {t.task.id: [turn.token_ids for turn in t.turns] for t in played}}


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Add up the time in which at least one span runs."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def timeline(watch: Watch, num_envs: int) -> list[str]:
    """Draw a stretch from the middle: one line for the policy, one per env; # is work, · is waiting."""
    middle = watch.acts[len(watch.acts) // 2][0]

    def line(spans: Sequence[tuple[float, float]]) -> str:
        cells = ["·"] * CELLS
        for start, end in spans:
            first, last = (int((at - middle) / WINDOW_S * CELLS) for at in (start, end))
            for cell in range(max(0, first), min(CELLS, last + 1)):
                cells[cell] = "#"
        return "".join(cells)

    envs = [line([(s, e) for slot, s, e in watch.steps if slot == env]) for env in range(num_envs)]
    return [f"policy {line(watch.acts)}", *(f"env {env}  {text}" for env, text in enumerate(envs))]


# ── Comparison ────────────────────────────────────────────────────────────────────────────────────────────────────────


def gaps(request: dict[str, Any]) -> dict[str, float]:
    """Return, per episode that differs, the gap between the two best logits where it first does."""
    import torch

    from sparring.core.types import Turn

    model, chat, benchmark, tasks = setting(request, request["warmup"] + request["num"])
    found = {}
    env = benchmark.make_env()
    for task in tasks:
        one, other = request["ours"].get(task.id), request["official"].get(task.id)
        if one is None or other is None or one == other:
            continue
        at = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
        observation, turns = env.reset(task, 0), []
        for ids in one[:at]:
            text, action = chat.parse(ids)
            turns.append(Turn(observation=observation, text=text, action=action, reward=0.0, token_ids=tuple(ids)))
            observation = env.step(action).observation
        same = next(i for i, (a, b) in enumerate(zip(one[at], other[at], strict=False)) if a != b)
        ids = [*chat.history(turns, observation), *one[at][:same]]
        with torch.inference_mode():
            best = model(torch.tensor([ids])).logits[0, -1].topk(2).values
        found[task.id] = float(best[0] - best[1])
    env.close()
    return found


def main() -> None:
    """Play both sides, compare them, print the table and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--env", choices=tuple(MAX_NEW_TOKENS), default="scienceworld")
    parser.add_argument("--model", default="runs/quickstart/seed-0/sft/sft-target/checkpoint")
    parser.add_argument("--num", type=int, default=80, help="episodes")
    parser.add_argument("--warmup", type=int, default=40, help="episodes before the clock starts")
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--num-examples", type=int, default=0, help="worked examples in the prompt (the paper: 1)")
    parser.add_argument("--padded", action="store_true", help="the same model, filled up to 108 M parameters")
    parser.add_argument("--vllm", default="", help="Python of an environment that has vLLM: a third side")
    sides = {"ours": ours, "official": official, "served": served, "gaps": gaps}
    args = parse(parser, lambda request: sides[request["side"]](request))
    shared = {name: value for name, value in vars(args).items() if name != "child"}
    mine = in_child("benchmarks.rollouts", {**shared, "side": "ours"})
    theirs = in_child("benchmarks.rollouts", {**shared, "side": "official"}, env=HASH)
    server = in_child("benchmarks.rollouts", {**shared, "side": "served"}) if args.vllm else None
    asked = {**shared, "side": "gaps", "ours": mine.pop("tokens"), "official": theirs.pop("tokens")}
    if server:
        on_server = in_child("benchmarks.rollouts", {**asked, "official": server.pop("tokens")})
        print(f"on the server {args.num - len(on_server)} of {args.num} episodes are equal; gaps {on_server}")
    differing = in_child("benchmarks.rollouts", asked)
    rows = [
        [name, side["cpu_s"] / args.num, side["wall_s"] / args.num]
        for name, side in (("ours", mine), ("official", theirs))
    ]
    if server:
        rows.append(["ours, on vLLM", server["cpu_s"] / args.num, server["wall_s"] / args.num])
    rows.append(["official / ours", *(b / a for a, b in zip(rows[0][1:], rows[1][1:], strict=True))])
    show("An episode", ["", "CPU-seconds", "seconds"], rows)
    ties = sum(gap < NEAR_TIE for gap in differing.values())
    print(f"\n{args.num - len(differing)} of {args.num} episodes equal token for token; {ties} part at a near-tie")
    print(f"policy acts {mine['acting']:.0%} of the time, nothing works {mine['idle']:.0%} of it\n")
    if args.env == "scienceworld":  # elsewhere a step is too short to be seen
        print("\n".join(mine["timeline"]))
    name = (
        "rollouts"
        + f"_{args.env}" * (args.env != "scienceworld")
        + "_padded" * args.padded
        + f"_{args.num_examples}_shown" * bool(args.num_examples)
    )
    save(name, {**shared, "ours": mine, "official": theirs, "served": server, "gaps": differing})


if __name__ == "__main__":
    main()
