"""Templates of our own AppWorld training tasks for money, music, files and mail: a scene in, a draft out."""

from __future__ import annotations

from sparring.envs.appworld.drafting import (
    added,
    asks,
    does,
    files_in,
    login,
    only,
    pages,
    removed,
    there,
    updated,
)
from sparring.envs.appworld.scene import Scene
from sparring.envs.appworld.tasks import Draft


def total_sent(scene: Scene) -> Draft:
    friend, other = scene.friends(2)
    amounts = [scene.rng.randrange(4, 60) for _ in range(scene.rng.randrange(3, 6))]
    for i, amount in enumerate(amounts):
        scene.payment(scene.me, friend, float(amount), f"for the {scene.rng.choice(scene.names.things)}", 20 - i)
    scene.payment(friend, scene.me, 17.0, "thanks", 8)
    scene.payment(scene.me, other, 23.0, "tickets", 6)
    return asks(
        f"How many dollars have I sent to {friend.name} on Venmo in total? Do not subtract what I received.",
        sum(amounts),
        login("venmo"),
        pages(f"apis.venmo.show_transactions(user_email={friend.email!r}, direction='sent'"),
        "answer = sum(payment['amount'] for payment in found)\nprint(answer)",
    )


def pay_relation(scene: Scene) -> Draft:
    relations = scene.contacts()
    friend = scene.rng.choice([p for p in scene.people[1:] if list(relations.values()).count(relations[p.id]) == 1])
    amount, thing = scene.rng.randrange(5, 40), scene.rng.choice(scene.names.things)
    scene.rows["venmo"]["User"][0]["venmo_balance"] = 200.0
    return does(
        f"Send ${amount} on Venmo to my {relations[friend.id]}, who is in my phone's contacts, from my Venmo balance, "
        f'with the description "{thing}".',
        [
            there("the money was sent", "venmo.Transaction", sender_id=1, receiver_id=friend.id, amount=float(amount)),
            there("the description is right", "venmo.Transaction", receiver_id=friend.id, description=thing),
            there("it came from the balance", "venmo.User", id=1, venmo_balance=200.0 - amount),
            only(
                added("venmo.Transaction", sender_id=1, receiver_id=friend.id, amount=float(amount)),
                updated("venmo.User", "venmo_balance", id=1),
                updated("venmo.User", "venmo_balance", id=friend.id),
            ),
        ],
        login("phone", "venmo"),
        pages(f"apis.phone.search_contacts(relationship={relations[friend.id]!r}"),
        f"print(apis.venmo.create_transaction(receiver_email=found[0]['email'], amount={amount}, "
        f"description={thing!r}, access_token=venmo_token))",
    )


def deny_requests(scene: Scene) -> Draft:
    friend, other = scene.friends(2)
    num = scene.rng.randrange(2, 4)
    ids = [scene.payment_request(friend, 10.0 + i, scene.rng.choice(scene.names.things), 5 - i) for i in range(num)]
    scene.payment_request(other, 12.0, scene.rng.choice(scene.names.things), 1)
    denied = [
        there(f"request {i} of {num} is denied", "venmo.PaymentRequest", id=id, denied_at=scene.now.isoformat())
        for i, id in enumerate(ids, start=1)
    ]
    return does(
        f"Deny all payment requests on Venmo that {friend.name} has sent me.",
        [*denied, only(*(updated("venmo.PaymentRequest", "denied_at", id=id) for id in ids))],
        login("venmo"),
        pages("apis.venmo.show_received_payment_requests(status='pending'"),
        f"for request in found:\n    if request['sender']['email'] == {friend.email!r}:\n"
        "        id = request['payment_request_id']\n"
        "        print(apis.venmo.deny_payment_request(payment_request_id=id, access_token=token))",
    )


def songs_of_genre(scene: Scene) -> Draft:
    songs = scene.songs(14)
    mine = scene.rng.sample(songs, 9)
    scene.library(mine)
    genre = scene.rng.choice(sorted({song["genre"] for song in mine}))
    return asks(
        f'How many of the songs in my Spotify song library are of the genre "{genre}"?',
        sum(song["genre"] == genre for song in mine),
        login("spotify"),
        pages("apis.spotify.show_song_library("),
        "songs = [apis.spotify.show_song(song_id=entry['song_id']) for entry in found]\n"
        f"answer = sum(song['genre'] == {genre!r} for song in songs)\nprint(answer)",
    )


def playlist_of_artist(scene: Scene) -> Draft:
    songs = scene.songs(16)
    mine = scene.rng.sample(songs, 10)
    scene.library(mine)
    artist = scene.rng.choice(sorted({song["artist_ids"][0] for song in mine}))
    name, title = scene.names.artists[artist - 1], scene.rng.choice(scene.names.playlists)
    wanted = [song["id"] for song in mine if song["artist_ids"] == [artist]]
    return does(
        f'Make a Spotify playlist called "{title}" and add to it all songs by {name} that are in my song library, '
        "and no others.",
        [
            there("the playlist is there", "spotify.Playlist", user_id=1, title=title),
            *(there(f"song {id} is in it", "spotify.PlaylistSong", playlist_id=1, song_id=id) for id in wanted),
            only(
                added("spotify.Playlist", title=title, user_id=1),
                *(added("spotify.PlaylistSong", playlist_id=1, song_id=id) for id in wanted),
            ),
        ],
        login("spotify"),
        pages("apis.spotify.show_song_library("),
        "songs = [apis.spotify.show_song(song_id=entry['song_id']) for entry in found]\n"
        f"wanted = [s['song_id'] for s in songs if {name!r} in [a['name'] for a in s['artists']]]\nprint(wanted)",
        f"playlist_id = apis.spotify.create_playlist(title={title!r}, access_token=token)['playlist_id']\n"
        "for song_id in wanted:\n"
        "    apis.spotify.add_song_to_playlist(playlist_id=playlist_id, song_id=song_id, access_token=token)",
    )


def like_playlist_songs(scene: Scene) -> Draft:
    songs = scene.songs(10)
    title, other = scene.rng.sample(scene.names.playlists, 2)
    wanted = scene.rng.sample(songs, scene.rng.randrange(2, 5))
    scene.playlist(title, wanted)
    scene.playlist(other, [song for song in songs if song not in wanted][:3])
    ids = [song["id"] for song in wanted]
    return does(
        f'Like every song in my Spotify playlist "{title}".',
        [
            *(
                there(f'"{song["title"]}" is liked', "spotify.SongLike", user_id=1, song_id=song["id"])
                for song in wanted
            ),
            only(
                *(added("spotify.SongLike", user_id=1, song_id=id) for id in ids),
                *(updated("spotify.Song", "like_count", id=id) for id in ids),
            ),
        ],
        login("spotify"),
        pages("apis.spotify.show_playlist_library("),
        f"id = next(p['playlist_id'] for p in found if p['title'] == {title!r})\n"
        "playlist = apis.spotify.show_playlist(playlist_id=id, access_token=token)\nprint(playlist)",
        "for song in playlist['songs']:\n    print(apis.spotify.like_song(song_id=song['id'], access_token=token))",
    )


def count_files(scene: Scene) -> Draft:
    folder, other = scene.rng.sample(scene.names.folders, 2)
    ending = scene.rng.choice(["txt", "csv", "md"])
    num = scene.rng.randrange(2, 6)
    for i, thing in enumerate(scene.rng.sample(scene.names.things, 7)):
        scene.file(folder, f"{thing.replace(' ', '_')}.{ending if i < num else 'pdf'}", f"About the {thing}.")
    scene.file(other, f"notes.{ending}", "Elsewhere.")
    return asks(
        f'How many files in the folder "{folder}" of my home directory (~/{folder}/) end in ".{ending}"?',
        num,
        login("file_system"),
        files_in(folder),
        f"answer = sum(path.endswith('.{ending}') for path in paths)\nprint(answer)",
    )


def move_file(scene: Scene) -> Draft:
    folder, target = scene.rng.sample(scene.names.folders, 2)
    thing, other = (name.replace(" ", "_") for name in scene.rng.sample(scene.names.things, 2))
    source = scene.file(folder, f"{thing}.txt", f"All about the {thing}.")
    scene.file(folder, f"{other}.txt", "Stays here.")
    scene.file(target, "readme.txt", "What belongs here.")
    goal = source.replace(f"/{folder}/", f"/{target}/")
    return does(
        f"Move the file ~/{folder}/{thing}.txt of my home directory into the folder ~/{target}/ under the same name.",
        [
            there("the file is in its new folder", "file_system.File", path=goal, content=f"All about the {thing}."),
            there("it is gone from its old folder", "file_system.File", 0, path=source),
            only(
                *(added("file_system.File", path=goal), removed("file_system.File", path=source)),
                updated("file_system.File", "path", "tilde_path", "created_at", path=goal),
            ),
        ],
        login("file_system"),
        "print(apis.file_system.show_directory(directory_path='~/', access_token=token))",
        f"print(apis.file_system.move_file(source_file_path='~/{folder}/{thing}.txt', "
        f"destination_file_path='~/{target}/{thing}.txt', access_token=token))",
    )


def delete_files(scene: Scene) -> Draft:
    folder = scene.rng.choice(scene.names.folders)
    num = scene.rng.randrange(2, 5)
    things = [thing.replace(" ", "_") for thing in scene.rng.sample(scene.names.things, 6)]
    paths = [scene.file(folder, f"{t}.{'log' if i < num else 'txt'}", f"On {t}.") for i, t in enumerate(things)]
    return does(
        f'Delete all files that end in ".log" from the folder ~/{folder}/ of my home directory.',
        [
            *(there(f"{path.rpartition('/')[2]} is gone", "file_system.File", 0, path=path) for path in paths[:num]),
            only(*(removed("file_system.File", path=path) for path in paths[:num])),
        ],
        login("file_system"),
        files_in(folder),
        "for path in paths:\n    if path.endswith('.log'):\n"
        "        print(apis.file_system.delete_file(file_path=path, access_token=token))",
    )


def unread_emails(scene: Scene) -> Draft:
    friend, other = scene.friends(2)
    unread = scene.rng.randrange(1, 4)
    for i, thing in enumerate(scene.rng.sample(scene.names.things, 5)):
        scene.email(friend, f"The {thing}", f"Do you still need the {thing}?", 10 - i, read=i >= unread)
    scene.email(other, "Hello", "It has been a while.", 2)
    return asks(
        f"How many unread email threads from {friend.name} ({friend.email}) are in my Gmail inbox?",
        unread,
        login("gmail"),
        pages(f"apis.gmail.show_inbox_threads(from_email={friend.email!r}, read=False"),
        "answer = len(found)\nprint(answer)",
    )


def send_email(scene: Scene) -> Draft:
    (friend,) = scene.friends(1)
    scene.contacts()
    thing, chore = scene.rng.choice(scene.names.things), scene.rng.choice(scene.names.chores)
    subject, body = f"Your {thing}", f"May I borrow the {thing}? I want to do this today: {chore}."
    sent = {"sender_id": 1, "recipient_ids": [friend.id]}
    return does(
        f"Send an email from my Gmail account to {friend.name}, whose address is in my phone's contacts. "
        f'Subject: "{subject}". Body, exactly: "{body}"',
        [
            there("the email was sent", "gmail.Email", **sent),
            there("its subject is right", "gmail.Email", **sent, subject=subject),
            there("its body is right", "gmail.Email", **sent, body=body),
            only(added("gmail.Email", **sent), added("gmail.GlobalEmailThread"), added("gmail.UserEmailThread")),
        ],
        login("phone", "gmail"),
        pages(f"apis.phone.search_contacts(query={friend.name!r}"),
        f"address = next(c['email'] for c in found if c['last_name'] == {friend.last!r})\n"
        f"print(apis.gmail.send_email(email_addresses=[address], subject={subject!r}, body={body!r}, "
        "access_token=gmail_token))",
    )


def star_emails(scene: Scene) -> Draft:
    friend, other = scene.friends(2)
    things = scene.rng.sample(scene.names.things, 5)
    num = scene.rng.randrange(2, 4)
    ids = [scene.email(friend if i < num else other, f"A {t}", f"I found a {t}.", 9 - i) for i, t in enumerate(things)]
    return does(
        f"Star every email thread in my Gmail inbox that {friend.name} ({friend.email}) has sent me.",
        [
            *(there(f"thread {id} is starred", "gmail.UserEmailThread", id=id, starred=True) for id in ids[:num]),
            only(*(updated("gmail.UserEmailThread", "starred", id=id) for id in ids[:num])),
        ],
        login("gmail"),
        pages(f"apis.gmail.show_inbox_threads(from_email={friend.email!r}"),
        "for thread in found:\n"
        "    id = thread['email_thread_id']\n"
        "    print(apis.gmail.mark_thread_starred(email_thread_id=id, access_token=token))",
    )


MONEY = (total_sent, pay_relation, deny_requests)
MUSIC = (songs_of_genre, playlist_of_artist, like_playlist_songs)
FILES = (count_files, move_file, delete_files)
MAIL = (unread_emails, send_email, star_emails)
