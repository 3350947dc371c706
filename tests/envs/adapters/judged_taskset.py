"""A taskset of verifiers for tests whose reward looks into a runtime, which the adapter has not."""

from __future__ import annotations

from collections.abc import Iterator

import verifiers.v1 as vf

__all__ = ["Judged"]


class JudgedTask(vf.Task[vf.TaskData, vf.State, vf.TaskConfig]):
    @vf.reward(weight=1.0)
    async def is_there(self, trace: vf.Trace, runtime: vf.Runtime) -> float:
        return float(bool(await runtime.read("answer.txt")))


class Judged(vf.Taskset[JudgedTask, vf.TasksetConfig]):
    def load(self) -> Iterator[JudgedTask]:
        for number in range(9):
            yield JudgedTask(vf.TaskData(prompt=f"Write {number} into answer.txt."), self.config.task)
