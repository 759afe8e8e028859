"""Whether the repository on GitLab can be set up from here, as docs/ci.md says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

NAME = "GitLab"


def look(origin: str, said: Callable[..., str | None]) -> Iterator[tuple[str, str]]:
    """Ask GitLab's command line about the repository; nothing for one that is not there.

    Args:
        origin: Address of the remote.
        said: What a program writes; None where it fails.

    Returns:
        What was found, and how to mend it (empty: nothing to mend).
    """
    if "gitlab" not in origin:
        return
    if said("glab", "--version") is None:
        yield "its command line is not installed", "Install it (glab), or set variables by hand."
    elif said("glab", "auth", "status") is None:
        yield "its command line is not logged in", "glab auth login"
    else:
        yield "its command line is logged in", ""
