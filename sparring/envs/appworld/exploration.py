"""Exploration without a goal: where training tasks begin, and things that chance does there, as code.

An explorer knows which deeds the apps allow and what a household holds, and nothing of anybody's wishes. It does one
or two of them and ends the episode. Its code finds things by their names, as an agent has to, and what it writes has
the words of the training split.

Source: arXiv 2604.15840 (D_0 from unguided exploration); how it explores is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from sparring.core.types import Task
from sparring.envs.appworld.drafting import DONE, login, only, pages, project_tasks
from sparring.envs.appworld.scene import NAMES
from sparring.envs.appworld.tasks import Draft, InitialRows, make_task
from sparring.envs.synthesis import synthetic_id

NO_WISH = (
    "I have no wish. Find out what can be done in my apps, do one or two things that change something, and then mark "
    "the task as complete."
)
"""The instruction of a place."""
NUM_DEEDS = (1, 1, 2)
"""How many things an explorer does, drawn with equal chances."""

Row = Mapping[str, Any]


def place_of(task: Task) -> Task:
    """Return where a training task begins, without its instruction, its tests and its reference."""
    draft = Draft(instruction=NO_WISH, tests=[only()], reference=[])
    made = make_task(id=task.id, kind=task.kind, rows=task.data["rows"], moment=task.data["moment"], draft=draft)
    return replace(made, id=synthetic_id(task.id, "place", made.data))


def explored_action(place: Task, num_done: int, seed: int) -> str | None:
    """Return the explorer's next code after so much; None: it has done enough."""
    way = walk(Household(place.data["rows"], Random(f"{seed}/walk")))
    return way[num_done] if num_done < len(way) else None


class Household:
    """What is in the apps, and what chance picks of it."""

    def __init__(self, rows: InitialRows, draw: Random) -> None:
        self._rows = rows
        self.draw = draw
        self.words = NAMES["train"]

    def rows(self, table: str) -> list[Row]:
        """List a table's rows with their ids."""
        app, _, name = table.partition(".")
        return [{"id": id, **row} for id, row in enumerate(self._rows.get(app, {}).get(name, ()), start=1)]

    def pick(self, table: str, *fields: str, **where: Any) -> Row | None:
        """Draw a row that agrees with `where` and that its values in `fields` tell from all others."""
        rows = self.rows(table)
        keys = [[row.get(field) for field in fields] for row in rows]
        wanted = [
            row
            for row, key in zip(rows, keys, strict=True)
            if keys.count(key) == 1 and all(row.get(name) == value for name, value in where.items())
        ]
        return self.draw.choice(wanted) if wanted else None

    def one(self, table: str, id: int) -> Row:
        return self.rows(table)[id - 1]

    def somebody(self, app: str) -> Row:
        """Draw somebody else's account."""
        return self.draw.choice(self.rows(f"{app}.User")[1:])


def walk(house: Household) -> list[str]:
    """Write the code of one or two things that can be done here, each in an app of its own, and end the episode."""
    code: list[str] = []
    left = list(DEEDS)
    for _ in range(house.draw.choice(NUM_DEEDS)):
        house.draw.shuffle(left)
        for app, deed in list(left):
            left.remove((app, deed))
            if found := deed(house):
                code += [login(app), *found]
                left = [(other, one) for other, one in left if other != app]
                break
    return [*code, DONE]


# ── What can be done, as code after the login; nothing where there is nothing to do it with ───────────────────────────


def _find_note(title: str) -> str:
    return (
        f"notes = apis.simple_note.search_notes(access_token=token, query={title!r}, page_limit=20)\n"
        f"note_id = next(n['note_id'] for n in notes if n['title'] == {title!r})\n"
        "note = apis.simple_note.show_note(note_id=note_id, access_token=token)\nprint(note)"
    )


def add_line(house: Household) -> list[str]:
    note, line = house.pick("simple_note.Note", "title"), f"- {house.draw.choice(house.words.chores)}"
    if note is None:
        return []
    content = f"content=note['content'] + '\\n' + {line!r}"
    update = f"apis.simple_note.update_note(note_id=note_id, access_token=token, {content})"
    return [_find_note(note["title"]), f"print({update})"]


def delete_note(house: Household) -> list[str]:
    note = house.pick("simple_note.Note", "title")
    delete = "print(apis.simple_note.delete_note(note_id=note_id, access_token=token))"
    return [_find_note(note["title"]), delete] if note else []


def add_todo(house: Household) -> list[str]:
    project, chore = house.pick("todoist.Project", "name"), house.draw.choice(house.words.chores)
    if project is None:
        return []
    what = f"title={chore!r}, priority={house.draw.choice(['low', 'high'])!r}"
    return [
        project_tasks(project["name"]),
        f"print(apis.todoist.create_task(project_id=project_id, {what}, access_token=token))",
    ]


def finish_todo(house: Household) -> list[str]:
    todo = house.pick("todoist.Task", "project_id", "title", is_completed=False)
    if todo is None:
        return []
    return [
        project_tasks(house.one("todoist.Project", todo["project_id"])["name"]),
        f"task_id = next(t['task_id'] for t in tasks if t['title'] == {todo['title']!r})\n"
        "print(apis.todoist.update_task(task_id=task_id, is_completed=True, access_token=token))",
    ]


def send_text(house: Household) -> list[str]:
    contact = house.pick("phone.Contact", "email")
    if contact is None:
        return []
    text = f"Have you seen my {house.draw.choice(house.words.things)}?"
    return [
        pages(f"apis.phone.search_contacts(query={contact['first_name'] + ' ' + contact['last_name']!r}"),
        f"number = next(c['phone_number'] for c in found if c['email'] == {contact['email']!r})\n"
        f"print(apis.phone.send_text_message(phone_number=number, message={text!r}, access_token=token))",
    ]


def switch_alarm(house: Household) -> list[str]:
    alarm = house.pick("phone.Alarm", "label")
    if alarm is None:
        return []
    return [
        pages("apis.phone.show_alarms("),
        f"alarm_id = next(a['alarm_id'] for a in found if a['label'] == {alarm['label']!r})\n"
        f"print(apis.phone.update_alarm(alarm_id=alarm_id, enabled={not alarm['enabled']}, access_token=token))",
    ]


def send_money(house: Household) -> list[str]:
    friend, amount = house.somebody("venmo"), house.draw.randrange(2, 40)
    if house.one("venmo.User", 1).get("venmo_balance", 0) < amount:
        return []
    what = f"amount={amount}, description={'for the ' + house.draw.choice(house.words.things)!r}"
    return [f"print(apis.venmo.create_transaction(receiver_email={friend['email']!r}, {what}, access_token=token))"]


def deny_request(house: Household) -> list[str]:
    request = house.pick("venmo.PaymentRequest", "sender_id", "description", receiver_id=1)
    if request is None:
        return []
    sender = house.one("venmo.User", request["sender_id"])["email"]
    return [
        pages("apis.venmo.show_received_payment_requests(status='pending'"),
        "id = next(r['payment_request_id'] for r in found "
        f"if (r['sender']['email'], r['description']) == {(sender, request['description'])!r})\n"
        "print(apis.venmo.deny_payment_request(payment_request_id=id, access_token=token))",
    ]


def make_playlist(house: Household) -> list[str]:
    taken = {row["title"] for row in house.rows("spotify.Playlist")}
    titles = [title for title in house.words.playlists if title not in taken]
    if not titles:
        return []
    return [f"print(apis.spotify.create_playlist(title={house.draw.choice(titles)!r}, access_token=token))"]


def like_song(house: Household) -> list[str]:
    entry = house.pick("spotify.UserLibrarySong", "song_id")
    if entry is None:
        return []
    title = house.one("spotify.Song", entry["song_id"])["title"]
    return [
        pages("apis.spotify.show_song_library("),
        f"song_id = next(s['song_id'] for s in found if s['title'] == {title!r})\n"
        "print(apis.spotify.like_song(song_id=song_id, access_token=token))",
    ]


def extend_playlist(house: Household) -> list[str]:
    """Add a song of one playlist to another."""
    link = house.pick("spotify.PlaylistSong", "song_id")  # a song that is in one playlist alone
    others = [row for row in house.rows("spotify.Playlist") if link and row["id"] != link["playlist_id"]]
    if link is None or not others:
        return []
    source, target = house.one("spotify.Playlist", link["playlist_id"])["title"], house.draw.choice(others)["title"]
    song = house.one("spotify.Song", link["song_id"])["title"]
    return [
        pages("apis.spotify.show_playlist_library("),
        "ids = {p['title']: p['playlist_id'] for p in found}\n"
        f"songs = apis.spotify.show_playlist(playlist_id=ids[{source!r}], access_token=token)['songs']\nprint(songs)",
        f"song_id = next(s['id'] for s in songs if s['title'] == {song!r})\n"
        f"print(apis.spotify.add_song_to_playlist(playlist_id=ids[{target!r}], song_id=song_id, access_token=token))",
    ]


def delete_file(house: Household) -> list[str]:
    file = house.pick("file_system.File", "path")
    if file is None:
        return []
    _, _, _, folder, name = file["path"].split("/")
    return [
        f"print(apis.file_system.show_directory(directory_path='~/{folder}/', access_token=token))",
        f"print(apis.file_system.delete_file(file_path='~/{folder}/{name}', access_token=token))",
    ]


def send_mail(house: Household) -> list[str]:
    address, thing = house.somebody("gmail")["email"], house.draw.choice(house.words.things)
    what = f"subject={f'The {thing}'!r}, body={f'Would you like to have my {thing}?'!r}"
    return [f"print(apis.gmail.send_email(email_addresses=[{address!r}], {what}, access_token=token))"]


def star_mail(house: Household) -> list[str]:
    mail = house.pick("gmail.Email", "subject", recipient_ids=[1])
    if mail is None:
        return []
    sender = house.one("gmail.User", mail["sender_id"])["email"]
    return [
        pages(f"apis.gmail.show_inbox_threads(from_email={sender!r}"),
        f"id = next(t['email_thread_id'] for t in found if t['subject'] == {mail['subject']!r})\n"
        "print(apis.gmail.mark_thread_starred(email_thread_id=id, access_token=token))",
    ]


DEEDS: Sequence[tuple[str, Callable[[Household], list[str]]]] = (
    *(("simple_note", deed) for deed in (add_line, delete_note)),
    *(("todoist", deed) for deed in (add_todo, finish_todo)),
    *(("phone", deed) for deed in (send_text, switch_alarm)),
    *(("venmo", deed) for deed in (send_money, deny_request)),
    *(("spotify", deed) for deed in (make_playlist, like_song, extend_playlist)),
    ("file_system", delete_file),
    *(("gmail", deed) for deed in (send_mail, star_mail)),
)
"""App → what an explorer may do there: what training templates ask for, and there are words for (`hindsight.py`)."""
