"""Whether the repository on GitHub is set up as docs/ci.md says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

NAME = "GitHub"


def look(origin: str, said: Callable[..., str | None]) -> Iterator[tuple[str, str]]:
    """Ask GitHub's command line about the repository; nothing for one that is not there.

    Args:
        origin: Address of the remote.
        said: What a program writes; None where it fails.

    Returns:
        What was found, and how to mend it (empty: nothing to mend).
    """
    if "github." not in origin:
        return
    if said("gh", "--version") is None:
        remedy = "Install it (gh): docs/ci.md has the commands that set up the repository."
        yield "its command line is not installed", remedy
    elif said("gh", "auth", "status") is None:
        yield "its command line is not logged in", "gh auth login"
    elif (names := said("gh", "variable", "list", "--json", "name")) is None:
        yield "the repository does not answer", "gh repo view"
    else:
        is_on = '"PRODUCTION"' in names
        yield f"set up, production is {'on' if is_on else 'off'}", ""
