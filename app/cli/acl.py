"""`mission acl`: the rights that a process of mission control needs on the server."""

from typing import Annotated

import typer

from app.broker import database_of
from app.cli.base import (
    EXIT_USAGE,
    Format,
    Output,
    app,
    leave,
    print_json,
    settings_of_command,
)
from app.mission_rights import MissionRole, rules
from sagastream import InvalidMessage


@app.command()
def acl(
    role: Annotated[
        MissionRole, typer.Argument(help="The process; `workers` for `mission workers`.")
    ],
    *,
    user: Annotated[str, typer.Option(help="The name of the user.")] = "NAME",
    output: Format = Output.TEXT,
) -> None:
    """Print the rights that a process needs, for ACL SETUSER; add >PASSWORD to it.

    It asks no server. Example: NAMESPACE=shop mission acl page --user page
    """
    settings = settings_of_command()
    try:
        found = rules(role, settings.namespace, database=database_of(settings.celery_url))
    except InvalidMessage as error:
        leave(EXIT_USAGE, f"NAMESPACE: {error.reason}")
    if not print_json({"user": user, "rules": found}, output):
        print(f"ACL SETUSER {user} {' '.join(found)}")
