"""What every world must do: named checks, each of which passes or says in a sentence what fails and what to do.

`sparring check-env` runs all of them on any world, the tests run them on Sparring's own, and a run does a short form on
its own live envs before it trains. The checks play; nothing of a world's code is read.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from sparring.core.errors import ConfigError, DataError, EnvFault, quote
from sparring.core.text import encodable
from sparring.core.types import Task
from sparring.envs.base import Benchmark, tasks_of
from sparring.envs.connections import LocalConnection
from sparring.envs.faults import describe_exception, told
from sparring.envs.processes import children_of
from sparring.envs.rewards import ADDED_UP, ADDS_UP, FELL, OUTSIDE, PER_STEP, TOLERANCE
from sparring.envs.subject import Failed, Finding, Played, Skipped, Subject, compare, score_of, shown

SPLITS = ("train", "dev", "test")
"""Splits that are looked for; a world needs `train` and another."""
ODD_ACTIONS = (
    "",
    "   ",
    "x" * 10_000,
    "open door\nopen door",
    "\x00\x01\x07\x1b[2J\r\n",
    "打开门",
    "\U0001f600 \ud800",
    "%s ${x} {} \\ ' \" [ ( *",
    "-1",
    "reset task",
    "help",
)
"""What a model may write."""
LAST_MOMENT_S = 2.0
"""Seconds that threads and processes have to end after `close`."""


def check_tasks(subject: Subject) -> str:
    """Splits are fixed and share no task, tasks are plain data with a turn limit."""
    benchmark, again = subject.benchmark, subject.config.load()
    if not isinstance(benchmark.instruction, str):
        raise Failed("instruction is no text.", "It is a str: the prompt's first part.")
    seen: dict[str, str] = {}
    for split in _splits(benchmark):
        tasks = tasks_of(benchmark, split)
        if tasks != tasks_of(again, split):
            raise Failed(f"tasks({split!r}) differ when the world is built anew.", "List them in a fixed order.")
        for task in tasks:
            if task.id in seen:
                raise Failed(f"{task.id} is in {seen[task.id]} and in {split}.", "Give every task one split.")
            seen[task.id] = split
            _check_task(benchmark, task)
    if not {*seen.values()} - {"train"}:
        raise Failed("There are no held-out tasks.", "List some in the split dev or test.")
    sizes = ", ".join(f"{sum(one == split for one in seen.values())} {split}" for split in dict.fromkeys(seen.values()))
    return f"{sizes}; no task in two splits; plain data; turn limits."


def _splits(benchmark: Benchmark) -> list[str]:
    """Return the splits that the world has."""
    try:
        tasks_of(benchmark, "no-such-split")
    except ConfigError as error:
        if isinstance(error.__cause__, Exception):
            what = "tasks('no-such-split') raises something else than ConfigError."
            raise Failed(what, "Refuse an unknown split with sparring.ConfigError, naming those there are.") from None
    else:
        raise Failed("tasks('no-such-split') gives tasks.", "Refuse an unknown split with sparring.ConfigError.")
    found = ["train"]
    for split in SPLITS[1:]:
        try:
            tasks_of(benchmark, split)
            found.append(split)
        except ConfigError:
            continue
    return found


def _check_task(benchmark: Benchmark, task: Task) -> None:
    data = dict(task.data)
    try:
        is_plain = json.loads(json.dumps(data)) == data
    except (TypeError, ValueError):
        is_plain = False
    if not is_plain:
        raise Failed(
            f"The data of {task.id} are no JSON values.", "Take text, numbers, lists and tables with text keys."
        )
    limit = told("turn_limit", lambda: benchmark.turn_limit(task))
    if type(limit) is not int or limit < 1:
        raise Failed(f"turn_limit gives {quote(limit)} for {task.id}.", "It is a whole number from 1 on.")


def check_answers(subject: Subject) -> str:
    """`reset` gives text and `step` an EnvStep."""
    for task in subject.tasks:
        if not str(subject.first(task)[0]).strip():
            raise Failed(f"reset says nothing for {task.id}.", "The first observation tells the agent what to do.")
    num = sum(len(answers) - 1 for answers in subject.played.values())
    return f"{len(subject.tasks)} tasks began with text, and {num} actions were answered with steps."


def check_determinism(subject: Subject) -> str:
    """The same task, seed and actions give the same answers on two fresh envs."""
    task = subject.tasks[0]
    compare(
        subject.first(task),
        subject.play(subject.env(1), task, subject.wandering),
        f"{task.id}: two envs answer the same actions differently",
        "Draw chance from the task and reset's seed alone, not from a global generator, the clock or a set's order.",
    )
    return "Two envs answer the same actions alike."


def check_forgetting(subject: Subject) -> str:
    """A reset forgets what was played before: other tasks, episodes that were left, episodes that ended."""
    remedy = "Begin anew in reset: a fresh object, or every attribute set again, the text that was shown included."
    expected = [subject.first(task) for task in subject.tasks]
    subject.forgets = False
    for number, (task, known) in enumerate(zip(subject.tasks, expected, strict=True)):
        other = subject.tasks[number - 1]
        subject.play(subject.env(0), other, subject.wandering[:2])  # and is left in the middle
        again = subject.play(subject.env(0), task, subject.wandering)
        compare(known, again, f"{task.id} is another one after {other.id} was left", remedy)
    for task, known in zip(reversed(subject.tasks), reversed(expected), strict=True):
        again = subject.play(subject.env(1), task, subject.wandering)
        compare(known, again, f"{task.id} depends on what the env played before it", remedy)
    subject.forgets = True
    return f"{len(subject.tasks)} tasks begin the same after others, whole and broken off."


def check_side_by_side(subject: Subject) -> str:
    """Two envs of one process that play in turns do not disturb each other."""
    if not subject.shares_process:
        raise Skipped("Each env has a process of its own.")
    task, other = subject.tasks[0], subject.tasks[-1]
    known, envs = subject.first(task), (subject.start(), subject.start())
    deadline_s = subject.config.step_deadline_s
    answers: Played = [envs[0].reset(task, 0, subject.config.reset_deadline_s)]
    envs[1].reset(other, 0, subject.config.reset_deadline_s)
    is_other_over = False
    for action in subject.wandering[: len(known) - 1]:
        answers.append(envs[0].step(action, deadline_s))
        if not is_other_over:
            is_other_over = envs[1].step(action, deadline_s).is_done
    for env in envs:
        env.close()
    remedy = "Keep an episode's state on the env, not on the class or module; or say env_per_process = True."
    compare(known, answers, f"{task.id} is answered differently while another env plays {other.id}", remedy)
    return "Two envs of one process play in turns without a trace of each other."


def check_any_text(subject: Subject) -> str:
    """Any text is a legal action, and gets an answer in words."""
    task, env = subject.tasks[0], subject.env(0)
    env.reset(task, 0, subject.config.reset_deadline_s)
    for action in ODD_ACTIONS:
        try:
            answer = env.step(encodable(action), subject.config.step_deadline_s)  # as a rollout hands it on
        except EnvFault as fault:
            raise Failed(f"The action {shown(action)} breaks the env: {fault}", "Answer it in the world.") from None
        if not answer.observation.strip():
            raise Failed(f"The action {shown(action)} is answered with nothing.", "Say that nothing happens.")
        if answer.is_done:
            env.reset(task, 0, subject.config.reset_deadline_s)
    first = env.reset(task, 0, subject.config.reset_deadline_s)
    if subject.forgets:
        compare(
            subject.first(task)[:1], [first], f"{task.id} begins otherwise after odd actions", "Forget them in reset."
        )
    return f"{len(ODD_ACTIONS)} odd actions are answered (empty, long, control characters, other scripts, …)."


def check_rewards(subject: Subject) -> str:
    """Rewards are read as they are meant: in their range, and not falling where they are so far."""
    rewards = subject.rewards
    for task in subject.tasks:
        episodes = [subject.first(task)]
        if task.id in subject.solutions:
            episodes.append(subject.play(subject.env(0), task, subject.solutions[task.id]))
        for answers in episodes:
            score_of(answers, rewards, task)
    for oddity in (OUTSIDE, FELL):
        if message := rewards.told.get(oddity):
            raise Failed(message[:1].upper() + message[1:])
    said = "as the world or the recipe says" if rewards.is_said else "the highest of an episode, by default"
    return f"They stay in their range, and are read as {rewards.rule} ({said})."


def check_experts(subject: Subject) -> str:
    """Experts' actions reach the reward that they are to reach, within the turn limit."""
    if not subject.solutions:
        raise Skipped("The world gives no experts' actions for these tasks; demonstrations come from expert.path.")
    for task in subject.tasks:
        if task.id not in subject.solutions:
            continue
        path, limit = subject.solutions[task.id], subject.benchmark.turn_limit(task)
        if len(path) > limit:
            raise Failed(f"{task.id}: the expert's {len(path)} actions exceed the turn limit of {limit}.", "Raise it.")
        rewards = subject.rewards
        score = score_of(subject.play(subject.env(0), task, path), rewards, task)
        goal = subject.goals.get(task.id, 1.0)
        if score.value < goal - TOLERANCE:
            remedy = "Mend the actions or the reward."
            if ADDS_UP in score.oddities:
                remedy = ADDED_UP[:1].upper() + ADDED_UP[1:]
            elif rewards.rule == "so_far":
                remedy = f"{remedy} {PER_STEP}"
            raise Failed(f"{task.id}: the expert comes to {score.value:g}, not {goal:g}.", remedy)
    return f"{len(subject.solutions)} experts reach their rewards within the turn limit."


def check_own_process(subject: Subject) -> str:
    """An env that is built in a process of its own on this machine, from JSON options, answers as the others do."""
    if subject.config.pool == "local" and subject.benchmark.env_per_process:
        raise Skipped("Each env has a process of its own.")
    task, known = subject.tasks[0], subject.first(subject.tasks[0])
    try:
        env = subject.start_elsewhere()
    except (EnvFault, ConfigError, DataError) as error:
        remedy = "Its module must be importable there, and its options JSON values (variables: env.variables)."
        raise Failed(f"It can't be built in a process of its own: {error}", remedy) from None
    try:
        again = subject.play(env, task, subject.wandering)
    finally:
        env.close()
    remedy = "Let nothing depend on the process: no hash of text, no global generator, no file that only one writes."
    compare(known, again, f"{task.id} is answered differently in another process", remedy)
    return "An env in another process answers alike."


def check_closing(subject: Subject) -> str:
    """`close` may be called twice and leaves no process and no thread behind."""
    before, threads = children_of(), set(threading.enumerate())
    env = LocalConnection(subject.benchmark)
    env.reset(subject.tasks[0], 0, subject.config.reset_deadline_s)
    env.close()
    env.close()
    until = time.monotonic() + LAST_MOMENT_S
    while True:
        left = children_of() - before
        alive = [one for one in threading.enumerate() if one not in threads and not one.daemon]
        if not left and not alive:
            return "close, called twice, leaves no process and no thread behind."
        if time.monotonic() > until:
            what = f"{len(left)} processes" if left else f"the thread {alive[0].name!r}"
            raise Failed(f"After close {what} went on.", "End in close what reset and make_env started.")
        time.sleep(0.05)


CHECKS: Mapping[str, Callable[[Subject], str]] = {
    "tasks": check_tasks,
    "answers": check_answers,
    "determinism": check_determinism,
    "forgetting": check_forgetting,
    "side by side": check_side_by_side,
    "any text": check_any_text,
    "rewards": check_rewards,
    "experts": check_experts,
    "own process": check_own_process,
    "closing": check_closing,
}
"""All checks by name, in the order in which they are done."""
SHORT = ("answers", "determinism", "forgetting")
"""Those that a run does on its own envs."""


WITHOUT_ANSWERS = ("tasks", "answers", "closing")
"""Those that make sense in a world whose answers have another shape."""


def check(subject: Subject, names: Sequence[str] = tuple(CHECKS)) -> Iterator[Finding]:
    """Do checks one by one, and yield what each found.

    One that fails does not keep the others from being done, unless the world can't be played at all.
    """
    is_playable = True
    for name in names:
        if is_playable or name in WITHOUT_ANSWERS:
            yield (finding := _check(subject, name))
            is_playable = is_playable and not (name == "answers" and finding.verdict == "fail")
        else:
            yield Finding(check=name, verdict="skip", said="First `answers` must pass.")


def _check(subject: Subject, name: str) -> Finding:
    try:
        return Finding(check=name, verdict="pass", said=CHECKS[name](subject))
    except Skipped as reason:
        return Finding(check=name, verdict="skip", said=str(reason))
    except Failed as failed:
        return Finding(check=name, verdict="fail", said=failed.said, remedy=failed.remedy)
    except (ConfigError, DataError, EnvFault) as error:
        return Finding(check=name, verdict="fail", said=str(error), error=error)
    except Exception as error:  # the world's code: whatever it raises is what the check found
        return Finding(check=name, verdict="fail", said=f"The world raised {describe_exception(error)}.", error=error)
