"""What pipelines work with: an environment's settings, tables and versions, and the problem."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING

from .core.contract import Problem
from .core.errors import UserError
from .core.failures import importing
from .core.settings import Settings, load_settings

if TYPE_CHECKING:
    from .store.lakehouse import Lakehouse
    from .store.mirror import Mirror
    from .store.online import Backend
    from .tracking.registry import Registry


@dataclass(frozen=True)
class Context:
    """One environment, opened."""

    settings: Settings
    problem: Problem

    @cached_property
    def lakehouse(self) -> Lakehouse:
        """Its tables; whoever only looks up features does without.

        Raises:
            UserError: They are another environment's, or nobody's.
        """
        from .store import identity

        lakehouse = self.any_lakehouse
        identity.require(lakehouse, self.settings.storage_name)
        return lakehouse

    @property
    def any_lakehouse(self) -> Lakehouse:
        """The tables that conf/ points to, whoever they belong to."""
        from .store.engines import open_engine
        from .store.lakehouse import Lakehouse

        where = self.settings.lakehouse
        return Lakehouse(where.root, where.mounts, open_engine(self.settings))

    @property
    def mirror(self) -> Mirror | None:
        """What keeps the environment's state at an address; None: it stays in its folder.

        Raises:
            UserError: The address's client is not installed, or each machine would sign
                registrations with a key of its own.
        """
        settings = self.settings
        if settings.state_address is None:
            return None
        if settings.mlflow.signing_key is None:
            message = "`state_address` keeps no secrets, and `mlflow.signing_key` is not set."
            remedy = "Name the environment variable that holds the key of this environment."
            raise UserError(message, remedy)
        remedy = "Add `aws.in`, `azure.in` or `gcp.in` to PROJECT in noxfile.py; run `lock`."
        with importing("`state_address`", remedy):
            from .store.mirror import Mirror
        options = settings.lakehouse.storage_options
        return Mirror(settings.state, settings.state_address, options)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Work on the state that the environment's address keeps, and keep there what changed.

        Nothing happens where it has no address: its folder is kept.

        Raises:
            UserError: The address cannot be reached; also as of `mirror`.
        """
        mirror = self.mirror
        if mirror is None:
            yield
            return
        mirror.fetch()
        try:
            yield
        finally:
            mirror.keep()

    @cached_property
    def online(self) -> Backend:
        """Its online store."""
        from .store.online import open_backend

        settings = self.settings
        return open_backend(settings.state / "online", settings.online.redis, settings.mlflow.model)

    def publish(self) -> dict[str, int]:
        """Bring the online store in step with the feature tables; returns rows by table."""
        from .store.online.publishing import publish

        settings = self.settings
        return publish(
            self.lakehouse,
            self.problem.feature_tables,
            self.online,
            timedelta(hours=settings.online.history_hours),
            settings.features.chunk_rows,
        )

    @cached_property
    def registry(self) -> Registry:
        """Its model versions; MLflow takes seconds to import, so only when asked for."""
        from .tracking.registry import Registry
        from .tracking.signing import Signer

        signer = Signer(self.settings.mlflow.signing_key, self.settings.state / "signing.key")
        return Registry(self.settings.mlflow, signer, self.settings.storage_name)


def open_context(env: str) -> Context:
    """Read the configuration of an environment and join it with the problem that it names.

    Raises:
        UserError: As `settings.load_settings`; also a problem that cannot be found.
    """
    settings = load_settings(env)
    return Context(settings, find_problem(settings.problem))


def find_problem(module: str) -> Problem:
    """The `PROBLEM` that a module declares.

    Raises:
        UserError: There is no such module, or it declares none.
    """
    if module.startswith("."):
        message = f"`problem` in conf/ names {module}, which is relative to nothing."
        raise UserError(message, "Name the module that declares PROBLEM.")
    try:
        declaring = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        message = f"`problem` in conf/ names {module}, which is no module."
        raise UserError(message, "Name the module that declares PROBLEM.") from None
    if not hasattr(declaring, "PROBLEM"):
        message = f"`problem` in conf/ names {module}, which declares no PROBLEM."
        raise UserError(message, "Name the module that declares PROBLEM.")
    declared = declaring.PROBLEM
    if not isinstance(declared, Problem):
        message = f"PROBLEM in {module} is {type(declared).__name__}, not a Problem."
        raise UserError(message, "Declare it with `Problem(...)`.")
    return declared
