"""A world of your own in forty lines: walk along a row of places and dig for a treasure. A near miss earns a part."""

from sparring import ConfigError, EnvStep, Task

ROW = ("oak", "well", "barn", "gate", "pond", "hill", "mill", "cave")


class TreasureEnv:
    def reset(self, task, seed):
        self.here, self.goal = ROW.index(task.data["start"]), ROW.index(task.data["goal"])
        return f"The row: {', '.join(ROW)}. The treasure lies at the {ROW[self.goal]}. {self.look()}"

    def step(self, action):
        if action == "dig":
            reward = 1 - abs(self.here - self.goal) / len(ROW)
            found = "You find the treasure!" if reward == 1 else "There is nothing here, and the spade breaks."
            return EnvStep(observation=found, reward=reward, is_done=True)
        if action in ("go left", "go right"):
            self.here = min(max(self.here + (1 if action == "go right" else -1), 0), len(ROW) - 1)
            return EnvStep(observation=self.look(), reward=0, is_done=False)
        return EnvStep(observation="You can go left, go right and dig.", reward=0, is_done=False)

    def look(self):
        return f"You are at the {ROW[self.here]}."

    def close(self):
        pass


class Treasure:
    instruction = "You walk along a row of places. Actions: go left, go right, dig. You can dig only once."
    env_per_process = False

    def tasks(self, split):
        if split not in ("train", "dev", "test"):
            raise ConfigError(f"split: unknown {split!r}. Known: train, dev, test.")
        pairs = [(start, goal) for start in ROW for goal in ROW if start != goal]
        chosen = [pair for i, pair in enumerate(pairs) if ("train", "test", "train", "dev")[i % 4] == split]
        return [Task(id=f"{start}-{goal}", kind="dig", data={"start": start, "goal": goal}) for start, goal in chosen]

    def turn_limit(self, task):
        return 10

    def make_env(self):
        return TreasureEnv()

    def expert_actions(self, tasks):
        return {}  # they come from a file: expert.path
