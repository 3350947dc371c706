"""Write demonstrations of the treasure world: one finished episode a line, thoughts included.

python -m examples.treasure_demonstrations > examples/treasure.jsonl
"""

import json

from examples.treasure import ROW, Treasure, TreasureEnv


def demonstrate(task):
    env, turns, reward = TreasureEnv(), [], 0.0
    observation, steps = env.reset(task, seed=0), ROW.index(task.data["goal"]) - ROW.index(task.data["start"])
    side = "right" if steps > 0 else "left"
    for action in [f"go {side}"] * abs(steps) + ["dig"]:
        place = ROW[env.here]
        thought = (
            f"I am at the {place}, so I dig." if action == "dig" else f"The {task.data['goal']} is further {side}."
        )
        turns.append({"observation": observation, "thought": thought, "action": action})
        answer = env.step(action)
        observation, reward = answer.observation, answer.reward
    return {"task_id": task.id, "reward": reward, "turns": turns, "final_observation": observation}


if __name__ == "__main__":
    for task in Treasure().tasks("train"):
        print(json.dumps(demonstrate(task)))
