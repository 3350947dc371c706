"""The people and things of our own AppWorld tasks: a seeded draw per task, from names that no two splits share.

All names, titles and texts here are ours; none is AppWorld's.
"""

from __future__ import annotations

import datetime
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

APPS = ("simple_note", "todoist", "phone", "venmo", "spotify", "file_system", "gmail")
"""Apps that everybody in a scene has an account with."""

NUM_PEOPLE = 6
"""People in a scene, the supervisor first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What things may be called in one split."""

    first: Sequence[str]
    last: Sequence[str]
    domain: str
    things: Sequence[str]
    """Nouns, for titles and descriptions."""
    chores: Sequence[str]
    projects: Sequence[str]
    tags: Sequence[str]
    artists: Sequence[str]
    genres: Sequence[str]
    song_words: tuple[Sequence[str], Sequence[str]]
    playlists: Sequence[str]
    folders: Sequence[str]
    relations: Sequence[str]
    alarms: Sequence[str]


NAMES: Mapping[str, Names] = {
    "train": Names(
        first=("Ada", "Bruno", "Carmen", "Dorian", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Luca"),
        last=(
            "Abbott",
            "Bianchi",
            "Castellan",
            "Dressler",
            "Eriksen",
            "Fontaine",
            "Gruber",
            "Hollis",
            "Ivers",
            "Joshi",
        ),
        domain="postfach.example",
        things=(
            "bicycle pump",
            "tent",
            "garden hose",
            "bookshelf",
            "camera",
            "kettle",
            "sleeping bag",
            "ladder",
            "sofa",
        ),
        chores=(
            *("Water the ferns", "Call the plumber", "Renew the passport", "Sort the receipts", "Wash the curtains"),
            *("Book the ferry", "Oil the hinges", "Order new tyres", "Clean the gutters", "Paint the fence"),
        ),
        projects=("Spring Cleaning", "Harbour Trip", "Attic Repair", "Choir Concert", "Allotment", "Tax Papers"),
        tags=("recipes", "travel", "garden", "work", "music", "budget"),
        artists=("The Paper Kites Club", "Nora Vale", "Copper Lantern", "Delta Owls", "Ivo Brandt", "Salt & Cedar"),
        genres=("folk", "jazz", "electronic", "soul"),
        song_words=(
            ("Silent", "Golden", "Broken", "Distant", "Hollow", "Crimson"),
            ("Harbour", "Engine", "Orchard", "Mirror"),
        ),
        playlists=("Morning Coffee", "Long Drive", "Rainy Sunday", "Kitchen Dance", "Deep Work"),
        folders=("invoices", "photos", "reports", "drafts", "manuals"),
        relations=("roommate", "coworker", "cousin", "neighbor"),
        alarms=("Wake up", "Feed the cat", "Stretch", "Take the bins out", "Language lesson"),
    ),
    "dev": Names(
        first=("Marek", "Nadia", "Oskar", "Petra", "Quentin", "Rosa", "Stefan", "Tilda", "Umberto", "Vera"),
        last=("Kowal", "Lindqvist", "Moretti", "Novak", "Okafor", "Pereira", "Quist", "Rossi", "Sandoval", "Tanaka"),
        domain="briefkasten.example",
        things=("telescope", "canoe", "sewing machine", "record player", "toolbox", "lamp", "typewriter", "easel"),
        chores=(
            *("Defrost the freezer", "Return the library books", "Fix the doorbell", "Iron the shirts"),
            *("Prune the roses", "Back up the laptop", "Sharpen the knives", "Mend the kite", "Dust the piano"),
        ),
        projects=("Cellar Makeover", "Film Club", "Marathon Plan", "Balcony Garden", "School Fair"),
        tags=("reading", "health", "house", "ideas", "lessons"),
        artists=("Glass Harvest", "Mina Torres", "Quiet Machines", "The Ninth Tram", "Otto Winter"),
        genres=("blues", "ambient", "reggae"),
        song_words=(("Velvet", "Wandering", "Frozen", "Electric", "Lonely"), ("Meadow", "Signal", "Staircase", "Tide")),
        playlists=("Night Shift", "Train Window", "Slow Evening", "Bike Tour"),
        folders=("scans", "letters", "backups", "recordings"),
        relations=("classmate", "uncle", "teammate", "landlord"),
        alarms=("Morning run", "Take the vitamins", "Call grandma", "Water the bonsai"),
    ),
    "test": Names(
        first=("Wanda", "Xavier", "Yusuf", "Zelda", "Anselm", "Beatrix", "Cyril", "Dagmar", "Emeka", "Flora"),
        last=("Ulrich", "Varga", "Whitlock", "Yamada", "Zeller", "Amundsen", "Bergstrom", "Calder", "Duarte", "Ebner"),
        domain="letterbox.example",
        things=("rowing machine", "aquarium", "accordion", "snow shovel", "globe", "hammock", "projector", "unicycle"),
        chores=(
            *("Polish the boots", "Descale the kettle", "Varnish the table", "Visit the notary", "Patch the tyre"),
            *("Label the jars", "Sweep the chimney", "Empty the shed", "Tune the guitar", "Restock the pantry"),
        ),
        projects=("Winter Market", "Canal Cruise", "Book Fair", "Greenhouse", "Puppet Theatre"),
        tags=("errands", "astronomy", "sailing", "family", "puzzles"),
        artists=("Marble Foxes", "Selma Aoki", "Rust and Rain", "The Low Tide Choir", "Bram Visser"),
        genres=("bossa nova", "metal", "swing"),
        song_words=(
            ("Burning", "Emerald", "Forgotten", "Restless", "Paper"),
            ("Comet", "Garden", "Lighthouse", "Parade"),
        ),
        playlists=("Sunday Market", "Night Ferry", "Warm Up", "Chess Evening"),
        folders=("contracts", "sketches", "archive", "exports"),
        relations=("aunt", "tutor", "bandmate", "colleague"),
        alarms=("Swim practice", "Charge the drill", "Tea break", "Lock the shed"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with an account in every app; `id` is the same in all of them."""

    id: int
    first: str
    last: str
    email: str
    phone: str

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"


@dataclass(slots=True)
class Scene:
    """A task's initial state as it is being built."""

    names: Names
    rng: random.Random
    people: list[Person] = field(default_factory=list)
    rows: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    now: datetime.datetime = datetime.datetime(2025, 3, 14, 9, 30)

    @classmethod
    def draw(cls, names: Names, seed: str) -> Scene:
        """Draw people and give each an account in every app, the supervisor first."""
        scene = cls(names, random.Random(seed))
        scene.now += datetime.timedelta(days=scene.rng.randrange(300))
        first, last = (scene.rng.sample(pool, NUM_PEOPLE) for pool in (scene.names.first, scene.names.last))
        numbers = scene.rng.sample(range(10**6, 10**7), NUM_PEOPLE)
        for i, (a, b, number) in enumerate(zip(first, last, numbers, strict=True)):
            email = f"{a}.{b}@{scene.names.domain}".lower()
            scene.people.append(Person(id=i + 1, first=a, last=b, email=email, phone=f"555{number}"))
        me = scene.me
        scene.add(
            *("supervisor", "Supervisor"),
            **{"first_name": me.first, "last_name": me.last, "email": me.email, "phone_number": me.phone},
            birthday=f"{scene.rng.randrange(1960, 2000)}-0{scene.rng.randrange(1, 10)}-{scene.rng.randrange(10, 28)}",
        )
        for app in APPS:
            scene._open_accounts(app)
        return scene

    @classmethod
    def of(
        cls, split: str, rows: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], now: str, seed: str
    ) -> Scene:
        """Take up the scene of a task of ours again, from its rows; `seed` is of what is drawn from here on."""
        scene = cls(NAMES[split], random.Random(seed), now=datetime.datetime.fromisoformat(now))
        scene.rows = {
            app: {table: [dict(row) for row in found] for table, found in tables.items()}
            for app, tables in rows.items()
        }
        scene.rows["supervisor"].pop("Task", None)
        users = zip(rows["simple_note"]["User"], rows["phone"]["User"], strict=True)
        for i, (user, phone) in enumerate(users, start=1):
            name = {"first": user["first_name"], "last": user["last_name"]}
            scene.people.append(Person(id=i, **name, email=user["email"], phone=phone["phone_number"]))
        return scene

    @property
    def me(self) -> Person:
        """The supervisor."""
        return self.people[0]

    def friends(self, num: int) -> list[Person]:
        """Draw other people."""
        return self.rng.sample(self.people[1:], num)

    def add(self, app: str, table: str, **fields: Any) -> int:
        """Add a row and return its id."""
        records = self.rows.setdefault(app, {}).setdefault(table, [])
        records.append(fields)
        return len(records)

    def ago(self, days: float) -> str:
        """Return the date and time some days before now."""
        return (self.now - datetime.timedelta(days=days)).isoformat(timespec="seconds")

    def _open_accounts(self, app: str) -> None:
        password = "".join(self.rng.choices("abcdefghjkmnpqrstuvwxyz23456789", k=8))
        self.add("supervisor", "AccountPassword", supervisor_id=1, account_name=app, password=password)
        for person in self.people:
            login = {"phone_number": person.phone} if app == "phone" else {"email": person.email}
            checked = {} if app in ("phone", "gmail") else {"verified": True}
            fields = {"password": password if person is self.me else f"secret-{person.id}", "created_at": self.ago(400)}
            self.add(app, "User", first_name=person.first, last_name=person.last, **login, **checked, **fields)
        if app == "file_system":
            for path in ("/", "/home/", f"/home/{self.me.first.lower()}/"):
                self.add(app, "Directory", user_id=1, path=path, created_at=self.ago(400))

    # What the templates fill a scene with; each returns the new row's id.

    def note(self, title: str, content: str, tags: Sequence[str] = (), **fields: Any) -> int:
        return self.add("simple_note", "Note", user_id=1, title=title, content=content, tags=list(tags), **fields)

    def project(self, name: str) -> int:
        project = self.add("todoist", "Project", user_id=1, name=name, created_at=self.ago(60))
        self.add("todoist", "ProjectCollaboratorLink", project_id=project, user_id=1, created_at=self.ago(60))
        return project

    def todo(self, project: int, title: str, **fields: Any) -> int:
        index = sum(row["project_id"] == project for row in self.rows["todoist"].get("Task", ()))
        fields = {"priority": "medium", "is_completed": False, **fields}
        return self.add("todoist", "Task", project_id=project, user_id=1, title=title, order_index=index, **fields)

    def contact(self, person: Person, relation: str) -> int:
        names = {"first_name": person.first, "last_name": person.last}
        reach = {"email": person.email, "phone_number": person.phone}
        return self.add("phone", "Contact", user_id=1, **names, **reach, relationships=[relation])

    def contacts(self) -> dict[int, str]:
        """Put everybody into the phone's contacts, each with a relationship of their own as far as these go.

        Where they are there already, they stay as they are.
        """
        if known := self.rows["phone"].get("Contact"):
            ids = {person.email: person.id for person in self.people}
            return {ids[row["email"]]: row["relationships"][0] for row in known}
        relations = {}
        for i, person in enumerate(self.people[1:]):
            relations[person.id] = self.names.relations[i % len(self.names.relations)]
            self.contact(person, relations[person.id])
        return relations

    def alarm(self, time: str, label: str, enabled: bool) -> int:
        return self.add("phone", "Alarm", user_id=1, time=time, label=label, enabled=enabled, repeat_days=[])

    def payment(self, sender: Person, receiver: Person, amount: float, what: str, days_ago: float) -> int:
        who = {"sender_id": sender.id, "receiver_id": receiver.id}
        return self.add("venmo", "Transaction", **who, amount=amount, description=what, created_at=self.ago(days_ago))

    def payment_request(self, sender: Person, amount: float, what: str, days_ago: float) -> int:
        who = {"sender_id": sender.id, "receiver_id": 1}
        return self.add(
            "venmo", "PaymentRequest", **who, amount=amount, description=what, created_at=self.ago(days_ago)
        )

    def file(self, folder: str, name: str, content: str) -> str:
        """Add a file in a folder of the home directory and return its path."""
        parent = f"/home/{self.me.first.lower()}/{folder}/"
        if all(row["path"] != parent for row in self.rows["file_system"]["Directory"]):
            self.add("file_system", "Directory", user_id=1, path=parent, created_at=self.ago(200))
        self.add("file_system", "File", user_id=1, path=parent + name, content=content, created_at=self.ago(30))
        return parent + name

    def email(self, sender: Person, subject: str, body: str, days_ago: float, *, read: bool = False) -> int:
        """Add an email to the supervisor; returns the id of the supervisor's thread."""
        at = self.ago(days_ago)
        email = self.add(
            "gmail", "Email", sender_id=sender.id, recipient_ids=[1], subject=subject, body=body, created_at=at
        )
        thread = self.add("gmail", "GlobalEmailThread", email_ids=[email], created_at=at)
        both = {"global_email_thread_id": thread, "email_ids": [email], "created_at": at}
        self.add("gmail", "UserEmailThread", user_id=sender.id, incoming=False, outgoing=True, read=True, **both)
        return self.add("gmail", "UserEmailThread", user_id=1, incoming=True, outgoing=False, read=read, **both)

    def songs(self, num: int) -> list[dict[str, Any]]:
        """Add artists and that many songs, and return the songs' rows with their ids."""
        for artist, genre in zip(self.names.artists, itertools.cycle(self.names.genres), strict=False):
            self.add("spotify", "Artist", name=artist, genre=genre)
        titles = [f"{a} {b}" for a in self.names.song_words[0] for b in self.names.song_words[1]]
        songs = []
        durations = self.rng.sample(range(120, 400), num)
        for title, duration in zip(self.rng.sample(titles, num), durations, strict=True):
            song = {
                "title": title,
                "artist_ids": [self.rng.randrange(1, len(self.names.artists) + 1)],
                "duration": duration,
                "release_date": f"{self.rng.randrange(1990, 2025)}-05-01T00:00:00",
                "genre": self.rng.choice(self.names.genres),
            }
            songs.append({"id": self.add("spotify", "Song", **song), **song})
        return songs

    def playlist(self, title: str, songs: Sequence[Mapping[str, Any]]) -> int:
        playlist = self.add("spotify", "Playlist", title=title, user_id=1, created_at=self.ago(50))
        for song in songs:
            self.add("spotify", "PlaylistSong", playlist_id=playlist, song_id=song["id"], added_at=self.ago(40))
        return playlist

    def library(self, songs: Sequence[Mapping[str, Any]]) -> None:
        for song in songs:
            self.add("spotify", "UserLibrarySong", user_id=1, song_id=song["id"], created_at=self.ago(45))
