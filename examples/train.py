"""Co-Evolving Agents on a world of your own, from Python; `run.best_checkpoint` is an ordinary model folder."""

import sparring

recipe = {
    "method": "coevolving_agents",
    "env": {"id": "examples.treasure:Treasure"},
    "expert": {"path": "examples/treasure.jsonl"},
    "chat": {"format": "action", "max_context": 1024},
    "sft": {"lr": 1e-3, "epochs": 20, "batch_size": 8},
    "dpo": {"lr": 3e-5, "epochs": 2, "batch_size": 8},
}
run = sparring.train(recipe, out="runs/treasure-python", overrides={"loop.rounds": 2})
print(run, sparring.evaluate(run.best_checkpoint, split="dev"), sep="\n")
