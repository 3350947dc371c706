"""Gather the pretraining corpus of the bundled model: scripted and random walks in ScienceWorld's training variations.

In: the simulator and a number of walks. Out: one JSONL file per process, a line a walk: its task, what the simulator
showed, what the walker did. The walkers solve nothing: they tour rooms, carry things they see to places they know,
try valid actions at random, and name what the observations show, so that a model which reads them learns to copy
names. Only the simulator's training split is used; its dev and test variations never enter.

    python recipes/pretrain/gather.py --out runs/pretrain/walks --num-walks 12000 --num-processes 4
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import time
from pathlib import Path

NOT_FOR_WALKERS = {"agent", "air", "inventory", "object"}
DESTINATION = re.compile(r"move it to the (.+?) in the (.+?)\.")
LOCATION = re.compile(r"in the '(.+?)' location")
DOOR = re.compile(r"A door to the (.+?) \(that is")
TEMPLATES = (
    "look at {}", "look in {}", "pick up {}", "open {}", "close {}", "activate {}", "deactivate {}", "read {}",
    "put down {}", "eat {}", "mix {}", "examine {}", "use {} on {}", "move {} to {}", "pour {} in {}", "dunk {} in {}",
)  # fmt: skip


class Walker:
    """Plays one walk at a time on one simulator and records observation and action in turns."""

    def __init__(self, rng: random.Random) -> None:
        from scienceworld import ScienceWorldEnv

        self.rng = rng
        self.env = ScienceWorldEnv("")
        self.server = self.env.server
        self.doors: dict[str, set[str]] = {}
        self.turns: list[dict[str, str]] = []
        self.observation = ""
        self.is_over = False

    def start(self, kind: str, variation: int) -> None:
        """Load a task; the first observation is its description and what the agent sees."""
        self.server.load(kind, variation, "easy", False)
        self.turns, self.is_over = [], False
        self.task = str(self.server.getTaskDescription())
        look = str(self.server.step("look around"))
        self._learn_map(look)
        self.observation = f"{self.task}\n\n{look}"

    def act(self, action: str) -> str:
        """Play an action, unless the walk is over."""
        if self.is_over:
            return ""
        self.turns.append({"observation": self.observation, "action": action})
        answer = str(self.server.step(action))
        if answer.startswith("Ambiguous request"):
            self.turns.append({"observation": answer, "action": "0"})
            answer = str(self.server.step("0"))
        self._learn_map(answer)
        self.observation = answer
        self.is_over = bool(self.server.getCompleted()) or float(self.server.getScore()) < 0
        return answer

    def finish(self) -> list[dict[str, str]]:
        """Return the walk with its last observation."""
        return [*self.turns, {"observation": self.observation, "action": ""}]

    def _learn_map(self, text: str) -> None:
        here = re.search(r"is called the (.+?)\.", text)
        if here:
            self.here = here.group(1)
            self.doors.setdefault(self.here, set()).update(DOOR.findall(text))

    def names(self) -> list[str]:
        """Return names of what is in sight: unique referents, or sometimes the short names."""
        if self.rng.random() < 0.7:
            found = json.loads(self.server.getPossibleObjectReferentLUTJSON()).values()
        else:
            found = self.server.getPossibleObjects()
        rooms = set(self.doors) | NOT_FOR_WALKERS
        return sorted({name for name in map(str, found) if name not in rooms and "door" not in name})

    def go(self, room: str) -> None:
        """Walk to a room through the doors known so far; sometimes open them first, sometimes look around between."""
        opens, looks = self.rng.random() < 0.4, self.rng.random() < 0.3
        for step in self._path(room):
            if opens:
                self.act(f"open door to {step}")
            self.act(f"go to {step}")
            self.here = step
            if looks and step != room:
                self.act("look around")

    def _path(self, goal: str) -> list[str]:
        frontier, seen = [[self.here]], {self.here}
        for path in frontier:
            if path[-1] == goal:
                return path[1:]
            for room in sorted(self.doors.get(path[-1], ())):
                if room not in seen:
                    seen.add(room)
                    frontier.append([*path, room])
        doors = sorted(self.doors.get(self.here, ()))
        return [self.rng.choice(doors)] if doors else []

    def somewhere(self) -> str:
        """Return a random known room."""
        return self.rng.choice(sorted(self.doors))


def tour(walker: Walker) -> None:
    """Go from room to room; look, and look closer at what is there."""
    rng = walker.rng
    for _ in range(rng.randint(2, 6)):
        walker.go(rng.choice(sorted(walker.doors.get(walker.here, ())) or [walker.somewhere()]))
        walker.act("look around")
        for _ in range(rng.randint(0, 2)):
            poke(walker)


def poke(walker: Walker) -> None:
    """Try an action template on names in sight."""
    names = walker.names()
    if names:
        template = walker.rng.choice(TEMPLATES)
        walker.act(template.format(walker.rng.choice(names), walker.rng.choice(names)))


def carry(walker: Walker) -> None:
    """Take something that is in sight to a place: the one that the task names, or any."""
    rng = walker.rng
    named = DESTINATION.search(walker.task)
    if rng.random() < 0.7:
        walker.go(walker.somewhere())
        walker.act("look around")
    names = walker.names()
    if not names:
        return
    thing = rng.choice(names)
    moved = rng.random() < 0.8
    if moved:
        for thing in rng.sample(names, min(len(names), 4)):
            if walker.act(f"pick up {thing}").startswith("You move"):
                break
        else:
            return
    if rng.random() < 0.12:
        walker.act(f"focus on {thing}")
    box, room = named.groups() if named and rng.random() < 0.85 else ("", walker.somewhere())
    walker.go(room)
    if not box or rng.random() < 0.2:
        walker.act("look around")
        box = box or rng.choice(walker.names() or ["floor"])
    held = [name for name in walker.names() if name.endswith("in inventory")] if moved else []
    head = thing.split(" in ")[0]
    held = [name for name in held if any(word in name for word in head.split())] or held
    walker.act(f"move {rng.choice(held) if held and rng.random() < 0.8 else thing} to {box}")
    if rng.random() < 0.3:
        walker.act(f"look at {box}")


def visit_and_focus(walker: Walker) -> None:
    """Go to the place that the task names and focus on one or two things there, right or wrong."""
    rng = walker.rng
    named = LOCATION.search(walker.task)
    walker.go(named.group(1) if named and rng.random() < 0.9 else walker.somewhere())
    if rng.random() < 0.5:
        walker.act("look around")
    names = walker.names()
    for thing in rng.sample(names, min(len(names), 2)):
        walker.act(f"focus on {thing}")


def valid_actions(walker: Walker) -> None:
    """Play random actions that the simulator lists as valid, each template as likely as another."""
    for _ in range(walker.rng.randint(4, 8)):
        by_verb: dict[str, list[str]] = {}
        for entry in json.loads(walker.server.getValidActionObjectCombinationsJSON())["validActions"]:
            by_verb.setdefault(str(entry["template_id"]), []).append(str(entry["action"]))
        verb = walker.rng.choice(sorted(by_verb))
        walker.act(walker.rng.choice(sorted(by_verb[verb])))
        if walker.is_over:
            return


WALKS = {"tour": tour, "carry": carry, "visit_and_focus": visit_and_focus, "valid_actions": valid_actions}


def gather(
    out: Path, seed: int, num_walks: int, most: tuple[str, ...], most_share: float, weights: list[float]
) -> None:
    """Write `num_walks` walks to `out`, flushed line by line."""
    rng = random.Random(seed)
    walker = Walker(rng)
    server = walker.server
    variations: dict[str, list[int]] = {}
    for kind in walker.env.get_task_names():
        server.load(kind, 0, "easy", False)
        variations[kind] = [int(v) for v in server.getVariationsTrain()]
    most_kinds = [kind for kind in variations if kind.startswith(most)]
    with out.open("w", encoding="utf-8") as file:
        for number in range(num_walks):
            kind = rng.choice(most_kinds if rng.random() < most_share else sorted(variations))
            variation = rng.choice(variations[kind])
            script = rng.choices(list(WALKS.values()), weights)[0]
            walker.start(kind, variation)
            if number < 20:  # the map is learnt by touring
                script = tour
            for _ in range(1 if script in (valid_actions, visit_and_focus) else rng.randint(1, 2)):
                script(walker)
            line = {"task": f"{kind}/{variation}", "walk": script.__name__, "turns": walker.finish()}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
    walker.env.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the walks")
    parser.add_argument("--num-walks", type=int, default=12_000)
    parser.add_argument("--num-processes", type=int, default=4, help="one JVM each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", nargs="+", default=["find-", "lifespan-"], help="task types that get most walks")
    parser.add_argument("--most-share", type=float, default=0.55, help="their share; all thirty types share the rest")
    parser.add_argument("--weights", type=float, nargs=4, default=[0.25, 0.45, 0.12, 0.18], help=" ".join(WALKS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    share = args.num_walks // args.num_processes
    jobs = [
        context.Process(
            target=gather,
            args=(
                args.out / f"walks-{args.seed}-{i}.jsonl",
                args.seed * 1000 + i,
                share,
                tuple(args.most),
                args.most_share,
                args.weights,
            ),
        )
        for i in range(args.num_processes)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    print(f"{share * args.num_processes} walks in {time.monotonic() - started:.0f} s: {args.out}")


if __name__ == "__main__":
    main()
