"""What the guard after a training says, and the signs that an agent's behaviour has broken."""

from __future__ import annotations

from typing import Any

import pytest

from sparring.analysis.collapse import notices, signs
from sparring.analysis.failures import summarise_rollouts
from sparring.analysis.failures import to_json as summary_to_json
from sparring.core.types import StopReason, Task, Trajectory, Turn
from sparring.runs.acceptance import judge, to_json


class TestJudge:
    def test_the_best_earlier_agent_counts(self) -> None:
        start, before, after = {"a": 0.6, "b": 0.8}, {"a": 0.5, "b": 0.5}, {"a": 0.7, "b": 0.6}
        verdict = judge([start, before], after, max_drop=0.05)
        assert (verdict.before, verdict.after) == (pytest.approx(0.7), pytest.approx(0.65))
        assert verdict.is_accepted
        assert not judge([start, before], after, max_drop=0.04).is_accepted
        assert judge([before], after, max_drop=0.0).is_accepted

    def test_tasks_that_broke_on_either_side_do_not_count(self) -> None:
        verdict = judge([{"a": 0.5, "b": 1.0}], {"a": 0.5, "c": 0.0}, max_drop=0.0)
        assert (verdict.num, verdict.before, verdict.is_accepted) == (1, 0.5, True)
        assert judge([{"a": 1.0}], {"b": 0.0}, max_drop=0.0) == judge([{"a": 0.0}], {}, max_drop=0.0)

    def test_what_is_kept(self) -> None:
        bad, good = (judge([{"a": 1.0}], {"a": after}, max_drop=0.1) for after in (0.0, 0.95))
        assert to_json([bad, good])["kept"] == 2
        assert to_json([bad, bad, bad])["kept"] is None


def summary(*episodes: tuple[list[str], float], stop: StopReason = StopReason.DONE, observation: str = "o") -> Any:
    """Summarise episodes, each of a task of its own; observations are new each turn unless one is given."""
    made = [
        Trajectory(
            id=str(number),
            task=Task(id=f"t{number}", kind="k"),
            agent="target",
            turns=tuple(
                Turn(
                    observation=observation if observation != "o" else f"o{turn}",
                    text=a,
                    action=a,
                    reward=reward,
                    token_ids=(),
                )
                for turn, a in enumerate(actions)
            ),
            final_observation="",
            reward=reward,
            stop=stop,
            seed=0,
        )
        for number, (actions, reward) in enumerate(episodes)
    ]
    return summary_to_json(summarise_rollouts(made))


def varied(reward: float, **rest: Any) -> Any:
    return summary(*((["a", "b", str(n)], reward) for n in range(8)), **rest)


SOLVED = [(10, 7), (10, 4), (100, 7), (100, 4)]
"""Tasks played, and how many of ten are solved."""


class TestSigns:
    def test_a_healthy_agent_shows_none(self) -> None:
        assert signs(None, varied(0.6), drop=0.15, rise=0.3) == []
        assert signs(varied(0.6), varied(0.5), drop=0.15, rise=0.3) == []

    @pytest.mark.parametrize(
        ("now", "sign"),
        [
            (varied(0.4), "mean reward fell from 0.600 to 0.400"),
            (varied(0.6, stop=StopReason.TURN_LIMIT), "100 % of the episodes end at the turn or context limit"),
            (varied(0.6, stop=StopReason.CONTEXT_LIMIT), "at the turn or context limit (0 % at the start)"),
            (summary(*(([str(n)] * 3, 0.6) for n in range(8)), observation="same"), "repeat an action that changed"),
            (summary(*((["a", "b"], 0.6) for _ in range(8))), "have the same actions, whatever the task"),
            (summary(*((["a"] * (n + 3), 0.6) for n in range(8))), "100 % of all actions are the same"),
        ],
    )
    def test_of_a_collapse(self, now: Any, sign: str) -> None:
        assert any(sign in found for found in signs(varied(0.6), now, drop=0.15, rise=0.3))

    def test_an_agent_that_never_read_its_task_is_told_at_the_start(self) -> None:
        blind = summary(*((["right", "right", "dig"], n / 8) for n in range(8)))
        (sign,) = signs(None, blind, drop=0.15, rise=0.3)
        assert "the agent does not read its task yet" in sign

    def test_a_fall_that_the_draw_of_the_tasks_explains_is_none(self) -> None:
        """Ten tasks of which seven are solved, then ten others of which four are: one in nine draws does that."""
        many = [summary(*((["a", str(n)], float(n % 10 < solved)) for n in range(num))) for num, solved in SOLVED]
        assert signs(many[0], many[1], drop=0.15, rise=0.3) == []
        assert signs(many[2], many[3], drop=0.15, rise=0.3) == ["mean reward fell from 0.700 to 0.400"]

    def test_few_episodes_say_nothing(self) -> None:
        assert signs(varied(1.0), summary((["a"], 0.0)), drop=0.15, rise=0.3) == []

    def test_each_agent_is_compared_with_its_own_first_round(self) -> None:
        rounds = [(0, "target", 0.9), (0, "partner", 0.2), (1, "target", 0.3), (1, "partner", 0.2)]
        records = [{"round": n, "agent": agent, **varied(mean)} for n, agent, mean in rounds]
        (notice,) = notices(records, "held-out tasks", drop=0.15, rise=0.3)
        assert (notice["round"], notice["agent"], notice["is_start"]) == (1, "target", False)
