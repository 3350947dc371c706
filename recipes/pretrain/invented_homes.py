"""AppWorld over invented households: chance and words in, JSONL walks on AppWorld's real engine out.

Two kinds of walk. *Templates*: the reference code of the training templates, in scenes whose people, things, titles and
tags are drawn from pools of words or coined, so that only copying helps. *Errands*: a request made of the engine's own
description of one to three APIs and of values that were drawn ("create a new note (title "Velvet Kiln", …)"), answered
by code that logs in and calls them. Templates and names of the evaluation splits are not used.

    python recipes/pretrain/invented_homes.py --out runs/pretrain/invented_homes --num-walks 900 --seed 0
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from gather_worlds import play, write_invented
from invented_columns import coined, pick

from sparring.core.errors import ConfigError
from sparring.core.types import Task
from sparring.envs.appworld import AppWorld
from sparring.envs.appworld.drafting import DONE, login
from sparring.envs.appworld.generate import TEMPLATES
from sparring.envs.appworld.scene import APPS, Names, Scene
from sparring.envs.appworld.tasks import Draft, make_task

OBSERVATION_CHARS = 900
"""Most characters of what code prints: a list of things costs hundreds of tokens, and its start shows its form."""

SHARE_ERRANDS = 0.45

NO_ERRANDS = ("signup", "delete_account", "login", "logout", "password", "verif", "card", "bank", "download")
NO_ERRANDS += ("compress",)
"""Words in the names of APIs that no errand calls: they end the session, or need what no scene has."""

GENRES = ("folk", "jazz", "electronic", "soul", "rock", "classical", "pop", "country", "indie", "house")
RELATIONS = ("roommate", "coworker", "cousin", "neighbor", "friend", "manager", "sibling", "partner")
CHORES = ("Water", "Sell", "Mend", "Paint", "Clean", "Buy", "Return", "Sort", "Fetch", "Measure", "Wrap", "Repair")


def title(draw: Random) -> str:
    """Draw a title."""
    words = [draw.choice((pick(draw, "things"), pick(draw, "dealings"), coined(draw)))]
    if draw.random() < 0.5:
        words.insert(0, draw.choice((pick(draw, "modifiers"), pick(draw, "kinds"), coined(draw))))
    return " ".join(words).title()


def thing(draw: Random) -> str:
    return f"{pick(draw, 'modifiers')} {pick(draw, 'things')}" if draw.random() < 0.4 else pick(draw, "things")


def chore(draw: Random) -> str:
    return f"{draw.choice(CHORES)} the {thing(draw)}"


def first_name(draw: Random) -> str:
    return coined(draw).capitalize() if draw.random() < 0.3 else pick(draw, "first")


def last_name(draw: Random) -> str:
    return coined(draw).capitalize() if draw.random() < 0.3 else pick(draw, "last")


def invent_names(draw: Random) -> Names:
    """Draw what everything is called in one household."""

    def several(make: Any, num: int) -> tuple[str, ...]:
        found: dict[str, None] = {}
        while len(found) < num:
            found[make(draw)] = None
        return tuple(found)

    word = coined
    return Names(
        first=tuple(name.split()[0] for name in several(first_name, 10)),
        last=tuple(name.split()[0] for name in several(last_name, 10)),
        domain=f"{coined(draw)}.{draw.choice(('example', 'com', 'net'))}",
        things=several(thing, 9),
        chores=several(chore, 10),
        projects=several(title, 6),
        tags=several(lambda d: d.choice((coined(d), pick(d, "kinds"), pick(d, "things").split()[0])), 6),
        artists=several(lambda d: d.choice((f"The {title(d)}s", f"{first_name(d)} {last_name(d)}", title(d))), 6),
        genres=tuple(draw.sample(GENRES, 4)),
        song_words=(
            several(lambda d: pick(d, "modifiers").title(), 6),
            several(lambda d: d.choice((pick(d, "things").title(), word(d).title())), 4),
        ),
        playlists=several(title, 5),
        folders=several(lambda d: pick(d, "things").split()[0] + "s", 5),
        relations=tuple(draw.sample(RELATIONS, 4)),
        alarms=several(chore, 5),
    )


def template_task(seed: int, index: int) -> Task:
    """Draw a training template in an invented household."""
    draw = Random(f"{seed}/template/{index}")
    app = draw.choice(sorted(TEMPLATES["train"]))
    template = draw.choice(TEMPLATES["train"][app])
    scene = Scene.draw(invent_names(draw), f"{seed}/invented/{index}")
    name = template.__name__.replace("_", "-")
    return _task(f"{app}/{name}/invented-{seed}-{index}", app, scene, template(scene))


@cache
def errand_apis(docs: Path) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Read which APIs an errand may call: those whose arguments can be drawn."""
    found = {}
    for app in APPS:
        every = json.loads((docs / f"{app}.json").read_text(encoding="utf-8"))
        apis = [doc for name, doc in every.items() if not any(word in name for word in NO_ERRANDS)]
        found[app] = [doc for doc in apis if all_drawn(doc)]
    return found


def all_drawn(doc: Mapping[str, Any]) -> bool:
    return all(draw_value(Random(0), one) is not None for one in _required(doc))


def draw_value(draw: Random, parameter: Mapping[str, Any]) -> Any:
    """Draw a value by a parameter's name and type; none: there is no way to."""
    name, type = parameter["name"], parameter["type"]
    number = draw.randrange(1, 5) if name.endswith("_id") else draw.randrange(1, 60)
    if "email" in name:
        value = f"{first_name(draw)}.{last_name(draw)}@{coined(draw)}.com".lower()
        return [value] if "list" in type else value
    if "phone" in name:
        return f"555{draw.randrange(10**6, 10**7)}"
    if "path" in name:
        return f"~/{pick(draw, 'things').split()[0]}s/" + ("" if "directory" in name else f"{coined(draw)}.txt")
    if "time" in name or "date" in name or "access" in name:
        return None
    if "list" in type:
        return [draw.choice((coined(draw), pick(draw, "kinds"))) for _ in range(draw.randrange(1, 3))]
    makers = {"integer": number, "number": float(number), "boolean": draw.random() < 0.5}
    if type == "string":
        is_long = any(word in name for word in ("content", "body", "message", "description", "comment"))
        return f"{chore(draw)}." if is_long else draw.choice((title(draw), coined(draw)))
    return makers.get(type)


def errand_task(seed: int, index: int, docs: Path) -> Task:
    """Draw one to three API calls in one app, each asked for in the words of its description."""
    draw = Random(f"{seed}/errand/{index}")
    scene = Scene.draw(invent_names(draw), f"{seed}/errand/{index}")
    app = draw.choice(APPS)
    _furnish(scene, draw)
    requests, calls = [], []
    for doc in draw.sample(errand_apis(docs)[app], draw.choice((1, 1, 2, 3))):
        given = {one["name"]: draw_value(draw, one) for one in _required(doc)}
        optional = [one for one in doc["parameters"] if not one["required"] and not one["name"].startswith("page_")]
        for one in draw.sample(optional, min(len(optional), draw.choice((0, 0, 1)))):
            value = draw_value(draw, one)
            given |= {one["name"]: value} if value is not None else {}
        told = ", ".join(f"{name.replace('_', ' ')} {json.dumps(value)}" for name, value in given.items())
        what = doc["description"].partition(".")[0]
        requests.append(what[0].lower() + what[1:] + (f" ({told})" if told else ""))
        arguments = "".join(f"{name}={value!r}, " for name, value in given.items())
        calls.append(f"print(apis.{app}.{doc['api_name']}({arguments}access_token=token))")
    where = app.replace("_", " ").title()
    draft = Draft(
        instruction=draw.choice(
            (f"In {where}, {', then '.join(requests)}.", f"Please {', then '.join(requests)} in {where}.")
        ),
        tests=[{"name": "nothing", "check": "changes", "allowed": []}],
        reference=[login(app), *calls, DONE],
    )
    return _task(f"errand/invented/{seed}-{index}", app, scene, draft)


def walks(seed: int, num: int) -> Iterator[dict[str, Any]]:
    """Yield walks, each as a line of the corpus; of an errand whose calls fail, or a household that can't be, none."""
    world = AppWorld(limits={"observation_chars": OBSERVATION_CHARS})
    env, draw = world.make_env(), Random(seed)
    docs = world.engine.data / "api_docs" / "standard"
    for index in range(num):
        is_errand = draw.random() < SHARE_ERRANDS
        task = errand_task(seed, index, docs) if is_errand else template_task(seed, index)
        try:
            turns = play(env, task, task.data["reference"])
        except ConfigError:  # two things of one name, which the engine refuses
            continue
        if not any("Execution failed" in turn["observation"] for turn in turns):
            yield {"task": f"appworld/{task.id}", "walk": "errand" if is_errand else "template", "turns": turns}
    env.close()


def _furnish(scene: Scene, draw: Random) -> None:
    """Put some of everything into a scene, so that lists are not empty and small ids are there."""
    names = scene.names
    for _ in range(draw.randrange(1, 5)):
        scene.note(title(draw), chore(draw), draw.sample(names.tags, 2))
        scene.alarm(f"{draw.randrange(5, 23):02}:{draw.randrange(6)}0", chore(draw), draw.random() < 0.5)
    for name in draw.sample(names.projects, 2):
        project = scene.project(name)
        for _ in range(draw.randrange(1, 3)):
            scene.todo(project, chore(draw))
    scene.contacts()
    songs = scene.songs(6)
    scene.library(songs[:4])
    for name in names.playlists[:2]:
        scene.playlist(name, songs[:2])
    (friend,) = scene.friends(1)
    for days in range(1, 4):
        scene.payment(scene.me, friend, float(draw.randrange(4, 60)), thing(draw), days)
        scene.payment_request(friend, float(draw.randrange(4, 60)), thing(draw), days)
        scene.email(friend, title(draw), chore(draw), days)
        scene.file(draw.choice(names.folders), f"{coined(draw)}.txt", chore(draw))
    scene.rows["venmo"]["User"][0]["venmo_balance"] = 500.0


def _required(doc: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in doc["parameters"] if one["required"] and one["name"] != "access_token"]


def _task(id: str, app: str, scene: Scene, draft: Draft) -> Task:
    return make_task(id=id, kind=app, rows=scene.rows, moment=scene.now.isoformat(), draft=draft)


if __name__ == "__main__":
    write_invented(__doc__, walks, 900)
