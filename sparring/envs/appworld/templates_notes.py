"""Templates of our own AppWorld training tasks for notes, to-dos and the phone: a scene in, a draft out."""

from __future__ import annotations

from sparring.envs.appworld.drafting import (
    added,
    asks,
    does,
    login,
    only,
    pages,
    project_tasks,
    removed,
    there,
    updated,
)
from sparring.envs.appworld.scene import Scene
from sparring.envs.appworld.tasks import Draft


def notes_with_tag(scene: Scene) -> Draft:
    wanted, *others = scene.rng.sample(scene.names.tags, 3)
    num = scene.rng.randrange(2, 5)
    for i, thing in enumerate(scene.rng.sample(scene.names.things, 7)):
        tags = [wanted, scene.rng.choice(others)] if i < num else [scene.rng.choice(others)]
        scene.note(f"About the {thing}", f"Think about the {thing} again.", tags)
    return asks(
        f'How many of my notes in Simple Note have the tag "{wanted}"?',
        num,
        login("simple_note"),
        pages("apis.simple_note.search_notes("),
        f"answer = sum({wanted!r} in note['tags'] for note in found)\nprint(answer)",
    )


def note_line(scene: Scene) -> Draft:
    thing, *others = scene.rng.sample(scene.names.things, 4)
    chore, line = scene.rng.sample(scene.names.chores, 2)
    title, content = f"Plan for the {thing}", f"- {chore}"
    note = scene.note(title, content, [scene.rng.choice(scene.names.tags)])
    for other in others:
        scene.note(f"Plan for the {other}", f"- {scene.rng.choice(scene.names.chores)}")
    return does(
        f'In Simple Note, add the line "- {line}" at the end of my note "{title}". Leave the rest of it as it is.',
        [
            there("the note ends in the new line", "simple_note.Note", id=note, content=f"{content}\n- {line}"),
            only(updated("simple_note.Note", "content", id=note)),
        ],
        login("simple_note"),
        f"notes = apis.simple_note.search_notes(access_token=token, query={title!r}, page_limit=20)\n"
        f"note_id = next(n['note_id'] for n in notes if n['title'] == {title!r})\n"
        "note = apis.simple_note.show_note(note_id=note_id, access_token=token)\nprint(note)",
        "apis.simple_note.update_note(note_id=note_id, access_token=token, "
        f"content=note['content'] + '\\n' + {'- ' + line!r})",
    )


def delete_notes(scene: Scene) -> Draft:
    wanted, other = scene.rng.sample(scene.names.tags, 2)
    num = scene.rng.randrange(2, 4)
    titles = [f"Old idea: {thing}" for thing in scene.rng.sample(scene.names.things, 6)]
    ids = [
        scene.note(title, f"Sell the {title.removeprefix('Old idea: ')}?", [wanted] if i < num else [other])
        for i, title in enumerate(titles)
    ]
    gone = [there(f'the note "{title}" is gone', "simple_note.Note", 0, title=title) for title in titles[:num]]
    return does(
        f'Delete every note in Simple Note that has the tag "{wanted}".',
        [*gone, only(*(removed("simple_note.Note", id=id) for id in ids[:num]))],
        login("simple_note"),
        pages(f"apis.simple_note.search_notes(tags=[{wanted!r}]"),
        "for note in found:\n    print(apis.simple_note.delete_note(note_id=note['note_id'], access_token=token))",
    )


def open_tasks(scene: Scene) -> Draft:
    name, other = scene.rng.sample(scene.names.projects, 2)
    project, second = scene.project(name), scene.project(other)
    done = scene.rng.randrange(1, 5)
    for i, chore in enumerate(scene.rng.sample(scene.names.chores, 7)):
        scene.todo(project, chore, is_completed=i < done)
    for chore in scene.rng.sample(scene.names.chores, 3):
        scene.todo(second, chore)
    return asks(
        f'How many tasks in my Todoist project "{name}" are not completed yet?',
        7 - done,
        login("todoist"),
        project_tasks(name),
        "answer = sum(not task['is_completed'] for task in tasks)\nprint(answer)",
    )


def complete_urgent(scene: Scene) -> Draft:
    name = scene.rng.choice(scene.names.projects)
    project = scene.project(name)
    priorities = ["high"] * scene.rng.randrange(2, 4) + ["low", "medium", "medium"]
    chores = scene.rng.sample(scene.names.chores, len(priorities))
    ids = [scene.todo(project, chore, priority=level) for chore, level in zip(chores, priorities, strict=True)]
    urgent = [id for id, level in zip(ids, priorities, strict=True) if level == "high"]
    return does(
        f'Mark all tasks with high priority in my Todoist project "{name}" as completed.',
        [
            *(
                there(f'"{chore}" is completed', "todoist.Task", id=id, is_completed=True)
                for id, chore in zip(ids, chores, strict=True)
                if id in urgent
            ),
            only(*(updated("todoist.Task", "is_completed", id=id) for id in urgent)),
        ],
        login("todoist"),
        project_tasks(name),
        "for task in tasks:\n    if task['priority'] == 'high':\n"
        "        print(apis.todoist.update_task(task_id=task['task_id'], is_completed=True, access_token=token))",
    )


def new_task(scene: Scene) -> Draft:
    name, other = scene.rng.sample(scene.names.projects, 2)
    project = scene.project(name)
    scene.project(other)
    chore, *present = scene.rng.sample(scene.names.chores, 3)
    level = scene.rng.choice(["high", "low"])
    for title in present:
        scene.todo(project, title)
    return does(
        f'Add a task "{chore}" with {level} priority to my Todoist project "{name}".',
        [
            there("the task is in the project", "todoist.Task", project_id=project, title=chore),
            there("it has the right priority", "todoist.Task", project_id=project, title=chore, priority=level),
            only(added("todoist.Task", project_id=project, title=chore)),
        ],
        login("todoist"),
        project_tasks(name),
        f"print(apis.todoist.create_task(project_id=project_id, title={chore!r}, priority={level!r}, "
        "access_token=token))",
    )


def tasks_from_note(scene: Scene) -> Draft:
    name, title = scene.rng.choice(scene.names.projects), f"For the {scene.rng.choice(scene.names.things)}"
    project = scene.project(name)
    chores = scene.rng.sample(scene.names.chores, scene.rng.randrange(2, 5))
    scene.note(title, "\n".join(f"- {chore}" for chore in chores))
    scene.note(f"Not {title.lower()}", f"- {scene.names.chores[0]}?")
    return does(
        f'My note "{title}" in Simple Note is a list, one entry a line, each after "- ". '
        f'Add a task for each entry to my Todoist project "{name}", with the entry as its title.',
        [
            *(there(f'"{chore}" is a task', "todoist.Task", project_id=project, title=chore) for chore in chores),
            only(*(added("todoist.Task", project_id=project, title=chore) for chore in chores)),
        ],
        login("todoist", "simple_note"),
        f"notes = apis.simple_note.search_notes(access_token=simple_note_token, query={title!r}, page_limit=20)\n"
        f"note_id = next(n['note_id'] for n in notes if n['title'] == {title!r})\n"
        "note = apis.simple_note.show_note(note_id=note_id, access_token=simple_note_token)\nprint(note['content'])",
        project_tasks(name),
        "for line in note['content'].splitlines():\n"
        "    print(apis.todoist.create_task(project_id=project_id, title=line[2:], access_token=token))",
    )


def phone_number(scene: Scene) -> Draft:
    relations = scene.contacts()
    (friend,) = scene.friends(1)
    return asks(
        f"What is the phone number of my contact {friend.name} ({relations[friend.id]})?",
        friend.phone,
        login("phone"),
        pages(f"apis.phone.search_contacts(query={friend.name!r}"),
        f"answer = next(c['phone_number'] for c in found if c['email'] == {friend.email!r})\nprint(answer)",
    )


def text_message(scene: Scene) -> Draft:
    scene.contacts()
    (friend,) = scene.friends(1)
    thing = scene.rng.choice(scene.names.things)
    text = f"Could you lend me your {thing} this week?"
    return does(
        f'Send a text message to my contact {friend.name} that says exactly: "{text}"',
        [
            there("it was sent", "phone.GlobalTextMessage", sender_id=1, receiver_id=friend.id, message=text),
            only(
                added("phone.GlobalTextMessage", sender_id=1, receiver_id=friend.id, message=text),
                added("phone.UserTextMessage"),
            ),
        ],
        login("phone"),
        pages(f"apis.phone.search_contacts(query={friend.name!r}"),
        f"number = next(c['phone_number'] for c in found if c['first_name'] == {friend.first!r})\n"
        f"print(apis.phone.send_text_message(phone_number=number, message={text!r}, access_token=token))",
    )


def alarms_off(scene: Scene) -> Draft:
    labels = scene.rng.sample(scene.names.alarms, 4)
    is_on = scene.rng.sample([True, True, True, False], 4)
    hour = scene.rng.randrange(5, 10)
    ids = [
        scene.alarm(f"{hour + i:02}:{scene.rng.randrange(6)}0", label, on)
        for i, (label, on) in enumerate(zip(labels, is_on, strict=True))
    ]
    last = f"{hour + 2:02}:00"
    early = {ids[i]: labels[i] for i in range(2) if is_on[i]}
    return does(
        f"Switch off every alarm on my phone that is set for a time before {last}. Do not delete any.",
        [
            *(there(f'"{label}" is off', "phone.Alarm", id=id, enabled=False) for id, label in early.items()),
            only(*(updated("phone.Alarm", "enabled", id=id) for id in early)),
        ],
        login("phone"),
        pages("apis.phone.show_alarms("),
        f"for alarm in found:\n    if alarm['time'] < {last!r} and alarm['enabled']:\n"
        "        print(apis.phone.update_alarm(alarm_id=alarm['alarm_id'], enabled=False, access_token=token))",
    )


NOTES = (notes_with_tag, note_line, delete_notes)
TODOIST = (open_tasks, complete_urgent, new_task, tasks_from_note)
PHONE = (phone_number, text_message, alarms_off)
