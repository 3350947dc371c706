"""The templates of the dev and test splits of our own AppWorld tasks; none of them is trained on."""

from __future__ import annotations

from sparring.envs.appworld.drafting import (
    added,
    asks,
    does,
    files_in,
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

# dev


def pin_notes(scene: Scene) -> Draft:
    wanted, other = scene.rng.sample(scene.names.tags, 2)
    num = scene.rng.randrange(2, 4)
    ids = [
        scene.note(f"Remember the {thing}", "Soon.", [wanted if i < num else other])
        for i, thing in enumerate(scene.rng.sample(scene.names.things, 6))
    ]
    return does(
        f'Pin every note in Simple Note that has the tag "{wanted}".',
        [
            *(there(f"note {id} is pinned", "simple_note.Note", id=id, pinned=True) for id in ids[:num]),
            only(*(updated("simple_note.Note", "pinned", id=id) for id in ids[:num])),
        ],
        login("simple_note"),
        pages(f"apis.simple_note.search_notes(tags=[{wanted!r}]"),
        "for note in found:\n"
        "    print(apis.simple_note.update_note(note_id=note['note_id'], pinned=True, access_token=token))",
    )


def longest_task(scene: Scene) -> Draft:
    name = scene.rng.choice(scene.names.projects)
    project = scene.project(name)
    chores = scene.rng.sample(scene.names.chores, 6)
    minutes = scene.rng.sample(range(10, 120, 5), 6)
    for chore, duration in zip(chores, minutes, strict=True):
        scene.todo(project, chore, duration=float(duration), duration_unit="minutes")
    return asks(
        f'Which task in my Todoist project "{name}" has the longest duration? Answer with its title.',
        chores[minutes.index(max(minutes))],
        login("todoist"),
        project_tasks(name),
        "answer = max(tasks, key=lambda task: task['duration'])['title']\nprint(answer)",
    )


def count_contacts(scene: Scene) -> Draft:
    relations = scene.contacts()
    wanted = scene.rng.choice(sorted(set(relations.values())))
    return asks(
        f'How many contacts in my phone have the relationship "{wanted}"?',
        list(relations.values()).count(wanted),
        login("phone"),
        pages(f"apis.phone.search_contacts(relationship={wanted!r}"),
        "answer = len(found)\nprint(answer)",
    )


def largest_payment(scene: Scene) -> Draft:
    friends = scene.friends(4)
    amounts = scene.rng.sample(range(5, 90), 4)
    for i, (friend, amount) in enumerate(zip(friends, amounts, strict=True)):
        scene.payment(friend, scene.me, float(amount), scene.rng.choice(scene.names.things), 15 - i)
    scene.payment(scene.me, friends[0], 120.0, "rent", 3)
    return asks(
        "Who has sent me the largest single payment on Venmo? Answer with the full name.",
        friends[amounts.index(max(amounts))].name,
        login("venmo"),
        pages("apis.venmo.show_transactions(direction='received'"),
        "answer = max(found, key=lambda payment: payment['amount'])['sender']['name']\nprint(answer)",
    )


def longest_song(scene: Scene) -> Draft:
    songs = scene.songs(10)
    title, other = scene.rng.sample(scene.names.playlists, 2)
    wanted = scene.rng.sample(songs, 5)
    scene.playlist(title, wanted)
    scene.playlist(other, [song for song in songs if song not in wanted])
    return asks(
        f'Which song in my Spotify playlist "{title}" is the longest? Answer with its title.',
        max(wanted, key=lambda song: song["duration"])["title"],
        login("spotify"),
        pages("apis.spotify.show_playlist_library("),
        f"id = next(p['playlist_id'] for p in found if p['title'] == {title!r})\n"
        "playlist = apis.spotify.show_playlist(playlist_id=id, access_token=token)\n"
        "songs = [apis.spotify.show_song(song_id=song['id']) for song in playlist['songs']]\n"
        "answer = max(songs, key=lambda song: song['duration'])['title']\nprint(answer)",
    )


def sum_of_file(scene: Scene) -> Draft:
    folder = scene.rng.choice(scene.names.folders)
    things = scene.rng.sample(scene.names.things, 5)
    prices = [scene.rng.randrange(5, 200) for _ in things]
    lines = [f"{thing}: {price}" for thing, price in zip(things, prices, strict=True)]
    scene.file(folder, "prices.txt", "\n".join(lines))
    scene.file(folder, "old_prices.txt", "\n".join(reversed(lines[1:])))
    return asks(
        f"Each line of the file ~/{folder}/prices.txt in my home directory gives a thing and its price, as in "
        '"thing: 12". What do all of them cost together?',
        sum(prices),
        login("file_system"),
        f"file = apis.file_system.show_file(file_path='~/{folder}/prices.txt', access_token=token)\nprint(file)",
        "answer = sum(int(line.split(': ')[1]) for line in file['content'].splitlines())\nprint(answer)",
    )


def label_emails(scene: Scene) -> Draft:
    friend, other = scene.friends(2)
    things = scene.rng.sample(scene.names.things, 5)
    num, label = scene.rng.randrange(2, 4), scene.rng.choice(scene.names.tags)
    ids = [scene.email(friend if i < num else other, f"The {t}", f"See the {t}.", 9 - i) for i, t in enumerate(things)]
    return does(
        f'Give the label "{label}" to every email thread in my Gmail inbox that {friend.name} ({friend.email}) '
        "has sent me.",
        [
            *(there(f"thread {id} has the label", "gmail.UserEmailThread", id=id, label=label) for id in ids[:num]),
            only(*(updated("gmail.UserEmailThread", "label", id=id) for id in ids[:num])),
        ],
        login("gmail"),
        pages(f"apis.gmail.show_inbox_threads(from_email={friend.email!r}"),
        "for thread in found:\n"
        "    id = thread['email_thread_id']\n"
        f"    print(apis.gmail.label_thread(email_thread_id=id, label={label!r}, access_token=token))",
    )


def text_a_total(scene: Scene) -> Draft:
    scene.contacts()
    (friend,) = scene.friends(1)
    prices = [scene.rng.randrange(3, 30) for _ in range(4)]
    things = scene.rng.sample(scene.names.things, 4)
    title = f"Costs of {scene.rng.choice(scene.names.projects)}"
    scene.note(title, "\n".join(f"{thing}: {price}" for thing, price in zip(things, prices, strict=True)))
    sent = {"sender_id": 1, "receiver_id": friend.id}
    text = f"The total is {sum(prices)} dollars."
    return does(
        f'Add up the prices in my note "{title}" in Simple Note (each line gives a thing and its price in dollars, as '
        f'in "thing: 12"), and send my contact {friend.name} a text message that says exactly: '
        '"The total is N dollars.", with the sum for N.',
        [
            there("one text message went there", "phone.GlobalTextMessage", **sent),
            there("it says the right thing", "phone.GlobalTextMessage", **sent, message=text),
            only(added("phone.GlobalTextMessage", **sent), added("phone.UserTextMessage")),
        ],
        login("phone", "simple_note"),
        f"notes = apis.simple_note.search_notes(access_token=simple_note_token, query={title!r}, page_limit=20)\n"
        f"note_id = next(n['note_id'] for n in notes if n['title'] == {title!r})\n"
        "note = apis.simple_note.show_note(note_id=note_id, access_token=simple_note_token)\nprint(note['content'])",
        "total = sum(int(line.split(': ')[1]) for line in note['content'].splitlines())\n"
        + pages(f"apis.phone.search_contacts(query={friend.name!r}"),
        f"number = next(c['phone_number'] for c in found if c['last_name'] == {friend.last!r})\n"
        "print(apis.phone.send_text_message(phone_number=number, message=f'The total is {total} dollars.', "
        "access_token=token))",
    )


DEV = {
    "simple_note": (pin_notes,),
    "todoist": (longest_task,),
    "phone": (count_contacts, text_a_total),
    "venmo": (largest_payment,),
    "spotify": (longest_song,),
    "file_system": (sum_of_file,),
    "gmail": (label_emails,),
}

# test


def note_about(scene: Scene) -> Draft:
    things = scene.rng.sample(scene.names.things, 5)
    chores = scene.rng.sample(scene.names.chores, 5)
    notes = [(f"Thoughts on {thing}s", f"First: {chore}.") for thing, chore in zip(things, chores, strict=True)]
    for title, content in notes:
        scene.note(title, content)
    title, content = scene.rng.choice(notes)
    words = content.removeprefix("First: ").removesuffix(".")
    return asks(
        f'Which of my notes in Simple Note has the words "{words}" in its content? Answer with its title.',
        title,
        login("simple_note"),
        pages("apis.simple_note.search_notes("),
        "notes = [apis.simple_note.show_note(note_id=n['note_id'], access_token=token) for n in found]\n"
        f"answer = next(note['title'] for note in notes if {words!r} in note['content'])\nprint(answer)",
    )


def raise_priority(scene: Scene) -> Draft:
    name = scene.rng.choice(scene.names.projects)
    project = scene.project(name)
    chores = scene.rng.sample(scene.names.chores, 6)
    minutes = scene.rng.sample([15, 20, 25, 50, 60, 90], 6)
    ids = [
        scene.todo(project, chore, priority="low", duration=float(duration), duration_unit="minutes")
        for chore, duration in zip(chores, minutes, strict=True)
    ]
    short = [id for id, duration in zip(ids, minutes, strict=True) if duration < 30]
    return does(
        f'Set the priority of every task in my Todoist project "{name}" that takes less than 30 minutes to high.',
        [
            *(there(f'"{chores[id - 1]}" has it', "todoist.Task", id=id, priority="high") for id in short),
            only(*(updated("todoist.Task", "priority", id=id) for id in short)),
        ],
        login("todoist"),
        project_tasks(name),
        "for task in tasks:\n    if task['duration'] < 30:\n"
        "        print(apis.todoist.update_task(task_id=task['task_id'], priority='high', access_token=token))",
    )


def move_alarm(scene: Scene) -> Draft:
    labels = scene.rng.sample(scene.names.alarms, 3)
    hours = scene.rng.sample(range(6, 20), 3)
    ids = [scene.alarm(f"{hour:02}:15", label, True) for hour, label in zip(hours, labels, strict=True)]
    goal = f"{hours[0] + 1:02}:40"
    return does(
        f'Set my phone\'s alarm "{labels[0]}" to {goal}. Leave everything else about it as it is.',
        [
            there("the alarm has the new time", "phone.Alarm", id=ids[0], time=goal, label=labels[0], enabled=True),
            only(updated("phone.Alarm", "time", id=ids[0])),
        ],
        login("phone"),
        pages("apis.phone.show_alarms("),
        f"id = next(alarm['alarm_id'] for alarm in found if alarm['label'] == {labels[0]!r})\n"
        f"print(apis.phone.update_alarm(alarm_id=id, time={goal!r}, access_token=token))",
    )


def request_money(scene: Scene) -> Draft:
    friends = scene.friends(2)
    amount, thing = scene.rng.randrange(6, 45), scene.rng.choice(scene.names.things)
    both = " and ".join(f"{friend.name} ({friend.email})" for friend in friends)
    asked = [{"sender_id": 1, "receiver_id": friend.id, "amount": float(amount)} for friend in friends]
    return does(
        f'Request ${amount} each from {both} on Venmo, with the description "{thing}".',
        [
            *(
                there(f"{friend.first} was asked", "venmo.PaymentRequest", **fields, description=thing)
                for friend, fields in zip(friends, asked, strict=True)
            ),
            only(*(added("venmo.PaymentRequest", **fields) for fields in asked)),
        ],
        login("venmo"),
        f"for email in {[friend.email for friend in friends]!r}:\n"
        f"    print(apis.venmo.create_payment_request(user_email=email, amount={amount}, description={thing!r}, "
        "access_token=token))",
    )


def drop_old_songs(scene: Scene) -> Draft:
    songs = scene.songs(12)
    mine = scene.rng.sample(songs, 8)
    scene.library(mine)
    years = sorted(int(song["release_date"][:4]) for song in mine)
    year = years[len(years) // 2]
    year = year if year > years[0] else year + 1
    old = [song for song in mine if int(song["release_date"][:4]) < year]
    rows = {row["song_id"]: i + 1 for i, row in enumerate(scene.rows["spotify"]["UserLibrarySong"])}
    return does(
        f"Remove all songs released before {year} from my Spotify song library.",
        [
            *(there(f'"{s["title"]}" is gone', "spotify.UserLibrarySong", 0, song_id=s["id"]) for s in old),
            only(*(removed("spotify.UserLibrarySong", id=rows[song["id"]]) for song in old)),
        ],
        login("spotify"),
        pages("apis.spotify.show_song_library("),
        "for entry in found:\n    song = apis.spotify.show_song(song_id=entry['song_id'])\n"
        f"    if int(song['release_date'][:4]) < {year}:\n"
        "        print(apis.spotify.remove_song_from_library(song_id=entry['song_id'], access_token=token))",
    )


def list_of_files(scene: Scene) -> Draft:
    folder, other = scene.rng.sample(scene.names.folders, 2)
    names = sorted(f"{thing.replace(' ', '_')}.dat" for thing in scene.rng.sample(scene.names.things, 4))
    for name in scene.rng.sample(names, 4):
        scene.file(folder, name, "0110")
    parent = scene.file(other, "readme.txt", "Lists.").rpartition("/")[0]
    path = f"{parent}/list.txt"
    return does(
        f"Create a file ~/{other}/list.txt in my home directory. It must hold the names of all files in ~/{folder}/, "
        "one a line, in alphabetical order, without folders.",
        [
            there("the file is there", "file_system.File", path=path),
            there("it lists the names", "file_system.File", path=path, content="\n".join(names)),
            only(added("file_system.File", path=path)),
        ],
        login("file_system"),
        files_in(folder),
        "names = sorted(path.split('/')[-1] for path in paths)\n"
        f"print(apis.file_system.create_file(file_path='~/{other}/list.txt', content='\\n'.join(names), "
        "access_token=token))",
    )


def latest_subject(scene: Scene) -> Draft:
    friend, other = scene.friends(2)
    things = scene.rng.sample(scene.names.things, 5)
    days = scene.rng.sample(range(2, 20), 4)
    for thing, day in zip(things, days, strict=False):
        scene.email(friend, f"News of the {thing}", f"The {thing} is here.", day)
    scene.email(other, f"News of the {things[4]}", "Read this.", 1)
    return asks(
        f"What is the subject of the latest email in my Gmail inbox from {friend.name} ({friend.email})?",
        f"News of the {things[days.index(min(days))]}",
        login("gmail"),
        pages(f"apis.gmail.show_inbox_threads(from_email={friend.email!r}"),
        "answer = max(found, key=lambda thread: thread['created_at'])['subject']\nprint(answer)",
    )


def email_a_note(scene: Scene) -> Draft:
    scene.contacts()
    (friend,) = scene.friends(1)
    title = f"Checklist {scene.rng.choice(scene.names.projects)}"
    content = "\n".join(f"- {chore}" for chore in scene.rng.sample(scene.names.chores, 3))
    scene.note(title, content)
    scene.note(f"{title} (old)", f"- {scene.names.chores[0]}")
    sent = {"sender_id": 1, "recipient_ids": [friend.id]}
    return does(
        f'Email the content of my note "{title}" in Simple Note to {friend.name}, whose address is in my phone\'s '
        "contacts, from my Gmail account. Use the title of the note as the subject, and its content, unchanged, as "
        "the body.",
        [
            there("one email went there", "gmail.Email", **sent),
            there("its subject is the title", "gmail.Email", **sent, subject=title),
            there("its body is the content", "gmail.Email", **sent, body=content),
            only(added("gmail.Email", **sent), added("gmail.GlobalEmailThread"), added("gmail.UserEmailThread")),
        ],
        login("simple_note", "phone", "gmail"),
        f"notes = apis.simple_note.search_notes(access_token=token, query={title!r}, page_limit=20)\n"
        f"note_id = next(n['note_id'] for n in notes if n['title'] == {title!r})\n"
        "note = apis.simple_note.show_note(note_id=note_id, access_token=token)\nprint(note)",
        f"contacts = apis.phone.search_contacts(access_token=phone_token, query={friend.name!r})\n"
        f"address = next(c['email'] for c in contacts if c['last_name'] == {friend.last!r})\n"
        "print(apis.gmail.send_email(email_addresses=[address], subject=note['title'], body=note['content'], "
        "access_token=gmail_token))",
    )


TEST = {
    "simple_note": (note_about,),
    "todoist": (raise_priority,),
    "phone": (move_alarm,),
    "venmo": (request_money,),
    "spotify": (drop_old_songs,),
    "file_system": (list_of_files,),
    "gmail": (latest_subject, email_a_note),
}
