"""Who acts: names that are told apart however they are typed, and held against an identity."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping

from ..core.errors import UserError
from ..core.settings import DeploymentSettings

# Letters and digits that look alike in small print (after Unicode Technical Standard 39).
_LOOKS_LIKE = str.maketrans(
    "аеорсухіјѕԁԛԝһӏкмтвнгпиαβγεηικνορτυχωϲıɩɑɡʋɴ",
    "aeopcyxijsdqwhlkmtbhrnuabyenikvoptuxwciiagvn",
)
_SAME_STROKES = str.maketrans("0i1|", "olll")


def same_person(one: str, other: str) -> bool:
    """Whether two names may be one person's: alike but for case, accents, blanks, look-alikes."""
    return _looks(one) == _looks(other)


def require_name(who: str) -> None:
    """Refuse a name without a letter.

    Raises:
        UserError: It is empty, or nothing of it shows.
    """
    if not _looks(who):
        raise UserError("`--who` is empty.", "Name who acts, for the record.")


def acting(
    settings: DeploymentSettings,
    who: str | None,
    otherwise: str,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """Who acts: whoever the environment has authenticated, where it tells; else who is named.

    Args:
        settings: Name the variable that tells it, if there is one.
        who: Who is said to act; None: nobody was named.
        otherwise: Taken where neither is known.
        environment: Variables.

    Raises:
        UserError: The variable is empty, or tells another name.
    """
    if settings.identity is None:
        return otherwise if who is None else who
    known = environment.get(settings.identity, "").strip()
    if not known:
        message = f"{settings.identity}, which tells who acts (`deployment.identity`), is not set."
        raise UserError(message, "Act where people are authenticated, such as a workflow.")
    if who is not None and _plain(who) != _plain(known):
        message = f"--who {who} is not who acts here: {settings.identity} is {known}."
        raise UserError(message, "Act in your own name, or leave --who out.")
    return known


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _looks(name: str) -> str:
    """What is left of a name that cannot be told from another in print."""
    parts = unicodedata.normalize("NFKD", _plain(name))
    shown = "".join(letter for letter in parts if letter.isalnum() or letter == "|")
    return shown.translate(_LOOKS_LIKE).translate(_SAME_STROKES)
