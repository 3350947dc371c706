"""One conversation: the user's turns one after another, an agent's calls in, their results out.

An answer is either calls, `[cd(folder='a'), ls()]`, which are played and answered with one result a line; or anything
else, such as `done`, which ends the user's turn: it is checked and the next message comes. After the last one the
conversation is over. As in the benchmark, an agent that gives more than `steps_per_turn` answers with calls in one user
turn has failed, and the conversation ends there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sparring.core.types import Task
from sparring.envs.base import EnvStep
from sparring.envs.bfcl.calls import Call, read_calls
from sparring.envs.bfcl.functions import Style, functions_of, show_functions
from sparring.envs.bfcl.grading import Grader, Score
from sparring.envs.bfcl.live import LiveApis
from sparring.envs.bfcl.scenario import Scenario, reference_of, request_text, scenario_of

STEPS_PER_TURN = 20
"""Answers with calls that an agent may give in one user turn (the benchmark: 20)."""
MAX_OUTPUT = 4_000_000
"""Most characters that an episode's results may have in all; then the conversation ends. References give 70,454
at most."""
OVER = "The conversation is over."
DONE = "done"
"""How experts end a user's turn."""
MAX_SO_FAR = 1_000
"""Most characters that a result has in the account of what was done before a conversation that begins in the middle."""


class BFCLEnv:
    """One live conversation, in this process."""

    def __init__(self, *, docs: Style = "short", steps_per_turn: int = STEPS_PER_TURN) -> None:
        self.docs: Style = docs
        self.steps_per_turn = steps_per_turn
        self._base = 0.0
        self.close()

    def reset(self, task: Task, seed: int) -> str:
        """Start a task, and play what lies before its start. The world has no chance in it: `seed` changes nothing.

        Raises:
            DataError: the task is none of BFCL's, or its APIs can't start from its initial state.
        """
        self._base = 0.0
        first = self._begin(task)
        prefix = task.data.get("prefix", ())
        if not prefix:
            return first
        functions, _, message = first.partition("\n\n")
        so_far = [message]
        for action in prefix:
            answer = self.step(action).observation
            is_cut = len(answer) > MAX_SO_FAR and bool(read_calls(action))  # what the user says stays whole
            so_far += [f"You: {action}", f"{answer[:MAX_SO_FAR]}…" if is_cut else answer]
        self._base = silent_score(task, prefix, steps_per_turn=self.steps_per_turn).reward
        return f"{functions}\n\n{chr(10).join(so_far)}"

    def _begin(self, task: Task) -> str:
        self.close()
        scenario = scenario_of(task)
        self._live = LiveApis(scenario)
        self._grader = Grader(scenario, reference_of(task))
        self._scenario, self._is_over = scenario, False
        held_back = {name for names in scenario.held_back.values() for name in names}
        shown = [one for one in functions_of(scenario.apis) if one.name not in held_back]
        return f"Functions:\n{show_functions(shown, self.docs)}\n\n{self._message()}"

    def step(self, action: str) -> EnvStep:
        """Play an answer's calls, or end the user's turn."""
        if self._is_over or self._grader is None or self._live is None:
            return self._answer(OVER)
        calls = read_calls(action)
        if not calls:
            return self._end_turn(self._grader, self._live)
        self._num_steps += 1
        if self._num_steps > self.steps_per_turn:
            return self._stop(self._grader, "too many steps")
        return self._play(self._grader, self._live, calls)

    @property
    def score(self) -> Score | None:
        """How far the agent has come, and where and why it failed; nothing before the first reset."""
        return self._grader.score if self._grader else None

    def close(self) -> None:
        """Forget the conversation."""
        self._scenario: Scenario | None = None
        self._live: LiveApis | None = None
        self._grader: Grader | None = None
        self._results: list[str] = []
        self._num_steps = self._num_chars = 0
        self._is_over = True

    def _play(self, grader: Grader, live: LiveApis, calls: Iterable[Call]) -> EnvStep:
        results = []
        for call in calls:
            results.append(live.call(call))
            self._num_chars += len(results[-1])
            if self._num_chars > MAX_OUTPUT:
                return self._stop(grader, "too much output")
        self._results += results
        return self._answer("\n".join(results))

    def _end_turn(self, grader: Grader, live: LiveApis) -> EnvStep:
        grader.end_turn(live, self._results, has_called=self._num_steps > 0)
        self._num_steps = 0
        if grader.turn == len(grader.reference):
            return self._stop(grader)
        return self._answer(self._message())

    def _stop(self, grader: Grader, failure: str = "") -> EnvStep:
        """End the conversation and say what came of it: no agent acts on that any more, but people read it."""
        if failure:
            grader.give_up(failure)
        self._is_over = True
        score = grader.score
        told = f"{OVER} Requests met: {score.num_met} of {score.num_checked}."
        if score.failed_turn is not None:
            told += f" Message {score.failed_turn + 1}: {score.failure}."
        return self._answer(told)

    def _answer(self, observation: str) -> EnvStep:
        reward = self._grader.score.reward if self._grader else 0.0
        if self._base:  # only what is earned after the start counts; a request counts when it is over
            reward = max(0.0, (reward - self._base) / (1 - self._base)) if self._base < 1 else 1.0
        return EnvStep(observation=observation, reward=reward, is_done=self._is_over)

    def _message(self) -> str:
        """Return what the user says now, and before it the functions that are added."""
        assert self._scenario is not None and self._grader is not None
        turn = self._grader.turn
        added = self._scenario.held_back.get(turn, ())
        shown = [one for one in functions_of(self._scenario.apis) if one.name in added]
        functions = f"New functions:\n{show_functions(shown, self.docs)}\n\n" if shown else ""
        return f"{functions}User: {request_text(self._scenario, turn)}"


def silent_score(task: Task, prefix: Sequence[str], *, steps_per_turn: int = STEPS_PER_TURN) -> Score:
    """Return how far a task comes if nothing more is done after `prefix`."""
    whole = replace(task, data={key: value for key, value in task.data.items() if key != "prefix"})
    silence = [DONE] * len(scenario_of(task).requests)
    return score(whole, [*prefix, *silence], steps_per_turn=steps_per_turn)


def score(task: Task, actions: Iterable[str], *, steps_per_turn: int = STEPS_PER_TURN) -> Score:
    """Play actions from a fresh start and return how far they come.

    Raises:
        DataError: the task is none of BFCL's, or its APIs can't start from its initial state.
    """
    env = BFCLEnv(steps_per_turn=steps_per_turn)
    env.reset(task, 0)
    for action in actions:
        if env.step(action).is_done:
            break
    assert env.score is not None
    return env.score
