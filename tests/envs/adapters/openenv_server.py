"""An OpenEnv server for tests, that counts up to a number: `python -m tests.envs.adapters.openenv_server PORT`."""

from __future__ import annotations

import sys
from typing import Any


def main(port: int) -> None:
    import uvicorn
    from openenv.core.env_server import create_app
    from openenv.core.env_server.interfaces import Environment
    from openenv.core.env_server.types import Action, Observation, State

    class Said(Action):
        text: str

    class Seen(Observation):
        text: str = ""

    class Counting(Environment):
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            super().__init__()
            self.goal = self.count = 0

        def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Seen:
            self.goal, self.count = 2 + (seed or 0) % 3, 0
            return Seen(text=f"Count to {self.goal}, one number at a time.", done=False, reward=0.0)

        def step(self, action: Said, timeout_s: float | None = None, **_: Any) -> Seen:  # type: ignore[override]
            if action.text.strip() != str(self.count + 1):
                return Seen(text=f"No. You are at {self.count}.", done=False, reward=0.0)
            self.count += 1
            return Seen(text=f"Yes, {self.count}.", done=self.count == self.goal, reward=1 / self.goal)

        @property
        def state(self) -> State:
            return State(episode_id="", step_count=self.count)

    uvicorn.run(create_app(Counting, Said, Seen, max_concurrent_envs=8), port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
