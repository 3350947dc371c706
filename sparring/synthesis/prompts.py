"""What a language model is asked at each stage, and how episodes are written out for it."""

from __future__ import annotations

from sparring.core.types import Trajectory, Turn

SHOWN = 1500
"""Characters of an observation that the model is shown; the rest is marked as left out."""

REFLECT = """An agent acts in a text world. This is how the world works:
{instruction}

Below is an episode of the agent's that was flagged: {why}.
{episode}

Say what the agent does not master here, and where and how to explore the world in order to learn more about it. Answer
with one JSON object and nothing else:
{{"diagnosis": "what the agent does not master", "from_turn": turns to keep before exploring, 0 to {num_turns},
"guidance": "what to try from there"}}"""

EXPLORE = """You explore a text world. This is how it works:
{instruction}

Explore with this in mind: {guidance}
Answer each observation with one JSON object and nothing else: {{"action": "your next action"}}"""

ABSTRACT = """An agent acts in a text world. This is how the world works:
{instruction}

{why}
{episodes}

Make at most {most} new tasks, each with a solution: actions that start where these episodes start. Answer with one JSON
object and nothing else:
{{"tasks": [{{"intent": "what the task trains", "query": "the task in one sentence, as the agent will read it",
"actions": ["first action", "second action"]}}]}}"""

WEAKNESS = "The agent does not master this: {diagnosis}\nThe world was explored for it; train that. The episodes:"
NO_WEAKNESS = "The world was explored, and nothing was asked of the explorer. The episodes:"
"""What the abstraction is told of the episodes: after a flag, and without one."""
NO_GUIDANCE = "Nobody asks for anything. Find out what can be done here, and do something that changes the world."

REFLECT_PLAINLY = """An agent acts in a text world. Below is an episode of the agent's that was flagged: {why}.
{episode}

Say in one sentence what the agent does not master here."""

ABSTRACT_PLAINLY = """Below is an episode in a text world.
{episode}

Say in one sentence what somebody who asks for all of this would say."""


def show(trajectory: Trajectory) -> str:
    """Write an episode out for a model: numbered turns, the reward so far, and what came last."""
    lines = [line for number, turn in enumerate(trajectory.turns, start=1) for line in _turn_lines(number, turn)]
    end = f"Observation: {shorten(trajectory.final_observation)}\nThe end ({trajectory.stop.value}), reward "
    return "\n".join([*lines, f"{end}{trajectory.reward:.2f} of 1."])


def shorten(text: str, most: int = SHOWN) -> str:
    """Cut a text, and say so."""
    return text if len(text) <= most else f"{text[:most]} [… {len(text) - most} characters left out]"


def _turn_lines(number: int, turn: Turn) -> list[str]:
    return [
        f"Observation: {shorten(turn.observation)}",
        f"Turn {number}: {shorten(turn.action)} (reward so far {turn.reward:.2f})",
    ]
