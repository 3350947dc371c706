"""Changes to the apps' rows in, a request for them out: what was done, in words, with tests on the state.

Only what is said here can be asked for: one deed a sentence, about things that their names tell apart. A change that no
sentence asks for, or that comes of none, makes all of it unspeakable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparring.envs.appworld.checks import Check, Rows, changes
from sparring.envs.appworld.drafting import added, does, only, removed, there, updated
from sparring.envs.appworld.tasks import Draft

MAX_DEEDS = 4
"""Most deeds that a task asks for."""

MAX_QUOTED = 300
"""Longest text that a task asks for word by word."""

ME = 1
"""The supervisor's id, in every app."""

Row = Mapping[str, Any]
Rule = dict[str, Any]


class Unspeakable(Exception):
    """There is a change that can't be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """One thing that was done."""

    request: str
    tests: Sequence[Check]
    rules: Sequence[Rule]
    """What else changes with it, and is allowed to."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row that is not as it was."""

    table: str
    kind: str
    row: Row
    fields: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Scenery:
    """The rows in which a deed was done, and those that it left."""

    old: Rows
    new: Rows

    def one(self, table: str, id: int) -> Row:
        """Find a row by its id, gone or new."""
        found = [row for rows in (self.old, self.new) for row in rows.get(table, ()) if row["id"] == id]
        if not found:
            raise Unspeakable
        return found[0]

    def tell_apart(self, table: str, id: int, *fields: str) -> None:
        """Make sure that no other row of the table has the same values in these fields."""
        row = self.one(table, id)
        others = [one for rows in (self.old, self.new) for one in rows.get(table, ()) if one["id"] != id]
        if any(all(one[field] == row[field] for field in fields) for one in others):
            raise Unspeakable

    def name(self, table: str, id: int, field: str) -> str:
        """Return the field by which a row is known, if it tells it from all others of its table."""
        self.tell_apart(table, id, field)
        return quote(self.one(table, id)[field])

    def person(self, table: str, id: int) -> str:
        """Name somebody by name and address."""
        row = self.one(table, id)
        reach = row["phone_number"] if "phone_number" in row else row["email"]
        return f"{row['first_name']} {row['last_name']} ({reach})"


def quote(text: str) -> str:
    """Put a text into quotes; one that has quotes, lines or too many characters of its own can't be asked for."""
    if not text.strip() or text != text.strip() or len(text) > MAX_QUOTED or '"' in text or not text.isprintable():
        raise Unspeakable
    return f'"{text}"'


def quote_lines(text: str) -> str:
    """Put a text of several lines into quotes, line by line."""
    return ", ".join(quote(line) for line in text.split("\n"))


# ── Deeds ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_note(change: Change, scene: Scenery) -> Deed:
    id, content = change.row["id"], change.row["content"]
    title = scene.name("simple_note.Note", id, "title")
    return Deed(
        request=f"let the content of my note {title} in Simple Note be these lines, and no others: "
        f"{quote_lines(content)}",
        tests=[there(f"the note {id} has the content", "simple_note.Note", id=id, content=content)],
        rules=[updated("simple_note.Note", "content", id=id)],
    )


def delete_note(change: Change, scene: Scenery) -> Deed:
    id = change.row["id"]
    title = scene.name("simple_note.Note", id, "title")
    return Deed(
        request=f"delete my note {title} in Simple Note",
        tests=[there(f"the note {id} is gone", "simple_note.Note", 0, id=id)],
        rules=[removed("simple_note.Note", id=id)],
    )


def add_task(change: Change, scene: Scenery) -> Deed:
    row = change.row
    if row["description"] or row["due_date"] or row["duration"] or row["section_id"] or row["assignee_id"]:
        raise Unspeakable
    project = scene.name("todoist.Project", row["project_id"], "name")
    where = {"project_id": row["project_id"], "title": row["title"]}
    how = {"priority": row["priority"], "is_completed": row["is_completed"]}
    completed = ", and mark it as completed" if row["is_completed"] else ""
    return Deed(
        request=f"add a task {quote(row['title'])} with {row['priority']} priority to my Todoist project "
        f"{project}{completed}",
        tests=[there(f"the task is in project {row['project_id']}", "todoist.Task", **where, **how)],
        rules=[added("todoist.Task", **where)],
    )


def complete_task(change: Change, scene: Scenery) -> Deed:
    row = change.row
    project = scene.name("todoist.Project", row["project_id"], "name")
    scene.tell_apart("todoist.Task", row["id"], "project_id", "title")
    state = "completed" if row["is_completed"] else "not completed"
    return Deed(
        request=f"mark the task {quote(row['title'])} in my Todoist project {project} as {state}",
        tests=[there(f"task {row['id']} is {state}", "todoist.Task", id=row["id"], is_completed=row["is_completed"])],
        rules=[updated("todoist.Task", "is_completed", id=row["id"])],
    )


def send_text(change: Change, scene: Scenery) -> Deed:
    row = change.row
    sent = {"sender_id": ME, "receiver_id": row["receiver_id"], "message": row["message"]}
    if row["sender_id"] != ME:
        raise Unspeakable
    return Deed(
        request=f"send {scene.person('phone.User', row['receiver_id'])} a text message that says exactly: "
        f"{quote(row['message'])}",
        tests=[there(f"the message to {row['receiver_id']} was sent", "phone.GlobalTextMessage", **sent)],
        rules=[added("phone.GlobalTextMessage", **sent), added("phone.UserTextMessage")],
    )


def switch_alarm(change: Change, scene: Scenery) -> Deed:
    id, enabled = change.row["id"], change.row["enabled"]
    state = "on" if enabled else "off"
    return Deed(
        request=f"switch my phone's alarm {scene.name('phone.Alarm', id, 'label')} {state}",
        tests=[there(f"alarm {id} is {state}", "phone.Alarm", id=id, enabled=enabled)],
        rules=[updated("phone.Alarm", "enabled", id=id)],
    )


def send_money(change: Change, scene: Scenery) -> Deed:
    row = change.row
    if row["sender_id"] != ME or row["payment_card_digits"] is not None or row["private"]:
        raise Unspeakable
    sent = {"sender_id": ME, "receiver_id": row["receiver_id"], "amount": float(row["amount"])}
    return Deed(
        request=f"send ${row['amount']:g} on Venmo to {scene.person('venmo.User', row['receiver_id'])}, from my Venmo "
        f"balance, with the description {quote(row['description'])}",
        tests=[
            there(
                f"the money went to {row['receiver_id']}", "venmo.Transaction", **sent, description=row["description"]
            )
        ],
        rules=[
            added("venmo.Transaction", **sent),
            updated("venmo.User", "venmo_balance", id=ME),
            updated("venmo.User", "venmo_balance", id=row["receiver_id"]),
        ],
    )


def deny_request(change: Change, scene: Scenery) -> Deed:
    row = change.row
    scene.tell_apart("venmo.PaymentRequest", row["id"], "sender_id", "amount", "description")
    return Deed(
        request=f"deny the payment request of ${row['amount']:g} on Venmo with the description "
        f"{quote(row['description'])} that {scene.person('venmo.User', row['sender_id'])} has sent me",
        tests=[
            there(f"request {row['id']} is denied", "venmo.PaymentRequest", id=row["id"], denied_at=row["denied_at"])
        ],
        rules=[updated("venmo.PaymentRequest", "denied_at", id=row["id"])],
    )


def make_playlist(change: Change, scene: Scenery) -> Deed:
    title = scene.name("spotify.Playlist", change.row["id"], "title")
    where = {"user_id": ME, "title": change.row["title"]}
    return Deed(
        request=f"make a Spotify playlist called {title}",
        tests=[there("the playlist is there", "spotify.Playlist", **where)],
        rules=[added("spotify.Playlist", **where)],
    )


def add_to_playlist(change: Change, scene: Scenery) -> Deed:
    where = {"playlist_id": change.row["playlist_id"], "song_id": change.row["song_id"]}
    song = scene.name("spotify.Song", where["song_id"], "title")
    playlist = scene.name("spotify.Playlist", where["playlist_id"], "title")
    return Deed(
        request=f"add the song {song} to my Spotify playlist {playlist}",
        tests=[there(f"song {where['song_id']} is in it", "spotify.PlaylistSong", **where)],
        rules=[added("spotify.PlaylistSong", **where)],
    )


def like_song(change: Change, scene: Scenery) -> Deed:
    id = change.row["song_id"]
    return Deed(
        request=f"like the song {scene.name('spotify.Song', id, 'title')} on Spotify",
        tests=[there(f"song {id} is liked", "spotify.SongLike", user_id=ME, song_id=id)],
        rules=[added("spotify.SongLike", user_id=ME, song_id=id), updated("spotify.Song", "like_count", id=id)],
    )


def delete_file(change: Change, scene: Scenery) -> Deed:
    path = change.row["path"]
    return Deed(
        request=f"delete the file {quote(change.row['tilde_path'])} of my home directory",
        tests=[there(f"{path} is gone", "file_system.File", 0, path=path)],
        rules=[removed("file_system.File", path=path)],
    )


def send_mail(change: Change, scene: Scenery) -> Deed:
    row = change.row
    if row["sender_id"] != ME or len(row["recipient_ids"]) != 1 or row["response_to_email_id"] is not None:
        raise Unspeakable
    sent = {"sender_id": ME, "recipient_ids": row["recipient_ids"]}
    texts = {"subject": row["subject"], "body": row["body"]}
    return Deed(
        request=f"send an email from my Gmail account to {scene.person('gmail.User', row['recipient_ids'][0])} with "
        f"the subject {quote(row['subject'])} and exactly this body: {quote(row['body'])}",
        tests=[there(f"the email to {row['recipient_ids'][0]} was sent", "gmail.Email", **sent, **texts)],
        rules=[added("gmail.Email", **sent), added("gmail.GlobalEmailThread"), added("gmail.UserEmailThread")],
    )


def star_thread(change: Change, scene: Scenery) -> Deed:
    row = change.row
    if row["user_id"] != ME or not row["sender_names"]:
        raise Unspeakable
    subjects = {
        one["id"]: {scene.one("gmail.Email", id)["subject"] for id in one["email_ids"]}
        for one in scene.new["gmail.UserEmailThread"]
        if one["user_id"] == ME
    }
    own = subjects.pop(row["id"])
    if len(own) != 1 or any(own & other for other in subjects.values()):
        raise Unspeakable
    (subject,) = own
    verb, mark = ("star", "starred") if row["starred"] else ("unstar", "not starred")
    return Deed(
        request=f"{verb} the email thread {quote(subject)} of {row['sender_names'][0]} in my Gmail inbox",
        tests=[there(f"thread {row['id']} is {mark}", "gmail.UserEmailThread", id=row["id"], starred=row["starred"])],
        rules=[updated("gmail.UserEmailThread", "starred", id=row["id"])],
    )


Say = Callable[[Change, Scenery], Deed]

SAYINGS: Mapping[tuple[str, str, str], Say] = {
    ("simple_note.Note", "updated", "content"): write_note,
    ("simple_note.Note", "removed", ""): delete_note,
    ("todoist.Task", "added", ""): add_task,
    ("todoist.Task", "updated", "is_completed"): complete_task,
    ("phone.GlobalTextMessage", "added", ""): send_text,
    ("phone.Alarm", "updated", "enabled"): switch_alarm,
    ("venmo.Transaction", "added", ""): send_money,
    ("venmo.PaymentRequest", "updated", "denied_at"): deny_request,
    ("spotify.Playlist", "added", ""): make_playlist,
    ("spotify.PlaylistSong", "added", ""): add_to_playlist,
    ("spotify.SongLike", "added", ""): like_song,
    ("file_system.File", "removed", ""): delete_file,
    ("gmail.Email", "added", ""): send_mail,
    ("gmail.UserEmailThread", "updated", "starred"): star_thread,
}
"""Table, kind of change and changed fields → who puts it into words. All of them are what training templates ask for;
nothing that only an evaluation template asks for is among them."""

COMES_ALONG: Mapping[tuple[str, str, str], str] = {
    ("phone.UserTextMessage", "added", ""): "phone.GlobalTextMessage",
    ("venmo.User", "updated", "venmo_balance"): "venmo.Transaction",
    ("spotify.Song", "updated", "like_count"): "spotify.SongLike",
    ("gmail.GlobalEmailThread", "added", ""): "gmail.Email",
    ("gmail.UserEmailThread", "added", ""): "gmail.Email",
}
"""What apps change by themselves → the table to which a deed then adds."""


def put_into_words(before: Rows, start: Rows, end: Rows) -> Draft | None:
    """Ask for what was done between `start` and `end`; None: nothing was, or there are no words for all of it.

    Args:
        before: the rows that the tests compare with; what lies between them and `start` is allowed and not asked for.
        start: the rows in which it began.
        end: the rows that it left.
    """
    scene = Scenery(start, end)
    done = [Change(*one[:3], frozenset(one[3])) for one in changes(start, end)]
    try:
        deeds = [SAYINGS[_kind(one)](one, scene) for one in done if not _comes_along(one, done)]
    except (Unspeakable, LookupError, TypeError, ValueError, AttributeError):
        return None  # no words for the change, or rows that an agent's code has forged
    requests = [deed.request for deed in deeds]
    if not deeds or len(deeds) > MAX_DEEDS or len({*requests}) < len(requests):
        return None
    tests = [test for deed in deeds for test in deed.tests]
    rules = [*(rule for deed in deeds for rule in deed.rules), *_rules(changes(before, start))]
    return does(_sentence(requests), [*tests, only(*rules)])


def _kind(change: Change) -> tuple[str, str, str]:
    return change.table, change.kind, " ".join(sorted(change.fields))


def _comes_along(change: Change, done: Sequence[Change]) -> bool:
    source = COMES_ALONG.get(_kind(change))
    return source is not None and any((one.table, one.kind) == (source, "added") for one in done)


def _rules(found: Iterable[tuple[str, str, Row, set[str]]]) -> list[Rule]:
    return [
        {"table": table, "change": kind, "where": {"id": row["id"]}}
        | ({"fields": sorted(fields)} if kind == "updated" else {})
        for table, kind, row, fields in found
    ]


def _sentence(requests: Sequence[str]) -> str:
    """Make one text of requests: "Please do two things: (1) …; (2) …."""
    if len(requests) == 1:
        return f"Please {requests[0]}."
    parts = "; ".join(f"({place}) {request}" for place, request in enumerate(requests, start=1))
    return f"Please do {len(requests)} things: {parts}."
