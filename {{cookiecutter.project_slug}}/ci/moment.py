"""Fixes the moment as of which all later steps run: `python3 -m ci.moment [MOMENT]`.

The command line takes it from the variable AS_OF. Without it each verb would take a now of its own,
and find that the verb before it has not come so far.
"""

from __future__ import annotations

from datetime import UTC, datetime

from .errors import CiError, append_to, run


def main(arguments: list[str]) -> None:
    """Write the variable for the steps that follow.

    Raises:
        CiError: What was given is not a moment.
    """
    given = "".join(arguments)
    try:
        moment = datetime.fromisoformat(given) if given else datetime.now(UTC)
    except ValueError:
        raise CiError(f"{given!r} is not a moment: write it as 2013-11-01T06:00.") from None
    append_to("GITHUB_ENV", f"AS_OF={moment:%Y-%m-%dT%H:%M%z}")


if __name__ == "__main__":
    run(main)
