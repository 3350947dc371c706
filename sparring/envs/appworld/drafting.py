"""What the templates of our own AppWorld tasks share: tests in a word, and reference code that logs in and looks up."""

from __future__ import annotations

from typing import Any

from sparring.envs.appworld.checks import Check
from sparring.envs.appworld.tasks import Draft

DONE = "apis.supervisor.complete_task()"
ANSWER = "apis.supervisor.complete_task(answer=answer)"

WHO = "me = apis.supervisor.show_profile()"
PASSWORDS = "passwords = {a['account_name']: a['password'] for a in apis.supervisor.show_account_passwords()}"


def login(*apps: str) -> str:
    """Write code that logs in: `token` for the first app, `APP_token` for all. It looks up who the user is."""
    lines = [WHO, PASSWORDS]
    for app in apps:
        username = "me['phone_number']" if app == "phone" else "me['email']"
        call = f"apis.{app}.login(username={username}, password=passwords[{app!r}])"
        lines.append(f"{app}_token = {call}['access_token']")
    lines.append(f"token = {apps[0]}_token")
    return "\n".join(lines)


def pages(call: str) -> str:
    """Write code that reads all pages of a call, which ends in an open parenthesis with its arguments, into `found`."""
    comma = "" if call.endswith("(") else ", "
    return "\n".join(
        [
            "found, page = [], 0",
            f"while part := {call}{comma}access_token=token, page_index=page, page_limit=20):",
            "    found += part",
            "    page += 1",
            "print(found)",
        ]
    )


def project_tasks(project: str) -> str:
    """Write code that finds a project by its name and reads its tasks into `tasks`."""
    return "\n".join(
        [
            f"projects = apis.todoist.show_projects(access_token=token, query={project!r}, page_limit=20)",
            f"project_id = next(p['project_id'] for p in projects if p['name'] == {project!r})",
            "tasks = apis.todoist.show_tasks(project_id=project_id, access_token=token)['no_section_tasks']",
            "print(tasks)",
        ]
    )


def files_in(folder: str) -> str:
    """Write code that reads the paths of the files in a folder of the home directory into `paths`."""
    call = f"apis.file_system.show_directory(directory_path='~/{folder}/', entry_type='files', access_token=token)"
    return f"paths = {call}\nprint(paths)"


def asks(instruction: str, answer: Any, *reference: str) -> Draft:
    """A question: the answer must be right and nothing may change. `reference` leaves the answer in `answer`."""
    tests = [answered(answer), only()]
    return Draft(instruction=instruction, tests=tests, reference=[*reference, ANSWER])


def does(instruction: str, tests: list[Check], *reference: str) -> Draft:
    """A deed, judged by the state that it leaves."""
    return Draft(instruction=instruction, tests=tests, reference=[*reference, DONE])


def answered(answer: Any) -> Check:
    return {"name": "the answer is right", "check": "answer", "answer": answer}


def there(name: str, table: str, count: int = 1, **where: Any) -> Check:
    """That many rows agree with `where`."""
    return {"name": name, "check": "count", "table": table, "where": where, "count": count}


def only(*allowed: dict[str, Any]) -> Check:
    """Nothing else has changed."""
    name = "nothing else has changed" if allowed else "nothing has changed"
    return {"name": name, "check": "changes", "allowed": list(allowed)}


def added(table: str, **where: Any) -> dict[str, Any]:
    return {"table": table, "change": "added", "where": where}


def removed(table: str, **where: Any) -> dict[str, Any]:
    return {"table": table, "change": "removed", "where": where}


def updated(table: str, *fields: str, **where: Any) -> dict[str, Any]:
    return {"table": table, "change": "updated", "fields": list(fields), "where": where}
