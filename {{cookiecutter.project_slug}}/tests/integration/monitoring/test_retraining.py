from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import polars as pl
import pytest

from {{cookiecutter.package_name}} import flows
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.monitoring.retraining import (
    conclude,
    decide,
    decided_until,
)
from {{cookiecutter.package_name}}.store.measurements import MONITORING as PRODUCER
from {{cookiecutter.package_name}}.store.measurements import record

from tests.integration.monitoring.conftest import ENDS, TRAINED, Production

WEEK = timedelta(days=7)


def watch(production: Production, *statuses: str, version: str = "7") -> None:
    """A window per status, the last one ending with the data."""
    for back, status in enumerate(reversed(statuses)):
        end = ENDS - back * WEEK
        values = {
            "value": [0.3],
            "threshold": [0.1],
            "metric": ["drift"],
            "slice": ["feature=amount"],
        }
        rows = pl.DataFrame({**values, "status": [status]})
        record(production.context.lakehouse, rows, PRODUCER, f"version {version}", end - WEEK, end)


@pytest.mark.parametrize(
    ("statuses", "retrain", "why"),
    [
        (["violated", "violated"], True, "2 of the last 2 windows are violated"),
        (["violated", "unknown", "violated"], True, "2 of the last 3 windows are violated"),
        (["violated", "ok", "violated"], True, "2 of the last 3 windows are violated"),
        (["violated"], False, "the only window so far is violated"),
        (["violated", "violated", "ok"], False, "2 of the last 3 windows are violated"),
        (["violated", "violated", "unknown"], False, "2 of the last 3 windows are violated"),
        (["violated", "ok", "ok", "violated"], False, "1 of the last 3 windows is violated"),
        (["unknown", "unknown", "unknown"], False, "none of the last 3 windows is violated"),
        (["ok"], False, "the only window so far is not violated"),
        ([], False, "no window of this champion has been measured yet"),
    ],
)
def test_n_of_the_last_m_windows_and_the_newest(
    production: Production, statuses: list[str], *, retrain: bool, why: str
) -> None:
    watch(production, *statuses)
    decision = decide(production.context, ENDS)
    assert decision.retrain is retrain
    assert decision.why.startswith(why)
    assert ("feature=amount" in decision.why) is retrain
    assert (decision.outcome is None) is retrain


def test_windows_of_another_version_do_not_count(production: Production) -> None:
    watch(production, "violated", "violated", version="6")
    assert not decide(production.context, ENDS).retrain


def test_health_does_not_retrain(production: Production) -> None:
    for back in range(3):
        rows = pl.DataFrame(
            {"metric": ["scored"], "value": [0.0], "threshold": [0.9], "status": ["violated"]}
        )
        end = ENDS - back * WEEK
        record(production.context.lakehouse, rows, PRODUCER, "version 7", end - WEEK, end)
    assert not decide(production.context, ENDS).retrain


def test_it_cools_down_whatever_came_of_it(production: Production) -> None:
    # given a retraining whose model was no better
    watch(production, "violated", "violated")
    first = decide(production.context, ENDS)
    conclude(production.context, first, "version 8 is worse")
    # when the windows stay violated
    again = decide(production.context, ENDS + WEEK)
    # then it is not tried again at once, but after a while
    assert not again.retrain
    assert "the last training was 7 days ago" in again.why
    assert decide(production.context, ENDS + 3 * WEEK).retrain


def test_a_new_champion_is_left_in_peace(production: Production) -> None:
    watch(production, "violated", "violated")
    production.registry.tags["as_of"] = (ENDS - WEEK).isoformat()
    assert not decide(production.context, ENDS).retrain


def test_there_is_a_ceiling(production: Production) -> None:
    watch(production, "violated", "violated")
    settings = production.context.settings.retraining
    for number in range(settings.at_most + 1):
        decision = decide(
            production.context, ENDS + number * timedelta(days=settings.cooldown_days)
        )
        assert decision.retrain is (number < settings.at_most)
        if decision.retrain:
            conclude(production.context, decision, "done")
    assert f"there were {settings.at_most} in {settings.per_days} days" in decision.why
    assert decide(production.context, ENDS + timedelta(days=settings.per_days + 100)).retrain


def test_a_schedule_needs_no_violation(production: Production) -> None:
    own = production.context.settings.retraining.model_copy(update={"every_days": 30})
    object.__setattr__(
        production.context,
        "settings",
        production.context.settings.model_copy(update={"retraining": own}),
    )
    assert not decide(production.context, TRAINED + timedelta(days=29)).retrain
    decision = decide(production.context, TRAINED + timedelta(days=30))
    assert decision.retrain
    assert "30 days since the last training" in decision.why


def test_a_decision_stands_until_it_is_carried_out(production: Production) -> None:
    watch(production, "violated", "violated")
    first = decide(production.context, ENDS)
    # when the process is killed, and the world has moved on
    watch(production, "violated", "ok")
    assert decide(production.context, ENDS) == first
    assert decide(production.context, ENDS + WEEK) == first
    assert decided_until(production.context) is None
    conclude(production.context, first, "version 8 is the champion")
    assert decided_until(production.context) == ENDS
    assert decide(production.context, ENDS).outcome == "version 8 is the champion"
    assert decide(production.context, ENDS + WEEK).at == ENDS + WEEK


def test_without_a_champion_there_is_nothing_to_replace(production: Production) -> None:
    production.registry.champion = None
    decision = decide(production.context, ENDS)
    assert not decision.retrain
    assert "no champion" in decision.why


def test_after_a_rollback_old_windows_of_the_champion_do_not_count(production: Production) -> None:
    # given a champion that was violated, then replaced, then rolled back to
    watch(production, "violated", "violated", "ok", version="7")
    lakehouse = production.context.lakehouse
    rows = pl.DataFrame({"metric": ["drift"], "slice": ["feature=amount"], "status": ["ok"]})
    for number in (1, 2):
        end = ENDS + number * WEEK
        record(lakehouse, rows, PRODUCER, "version 8", end - WEEK, end)
    # then what it did before says nothing of now
    decision = decide(production.context, ENDS + 2 * WEEK)
    assert not decision.retrain
    assert "no window of this champion" in decision.why


def test_violated_windows_far_back_do_not_count(production: Production) -> None:
    watch(production, "violated", "violated")
    rows = pl.DataFrame({"metric": ["drift"], "slice": ["feature=amount"], "status": ["violated"]})
    end = ENDS + WEEK
    record(production.context.lakehouse, rows, PRODUCER, "version 8", end - WEEK, end)
    assert not decide(production.context, end).retrain


def test_a_decision_is_dropped_where_a_later_champion_is_in_place(production: Production) -> None:
    # given a decision that was not carried out
    watch(production, "violated", "violated")
    first = decide(production.context, ENDS)
    assert first.outcome is None
    # when somebody promotes a version that has learned more
    production.registry.tags["as_of"] = (ENDS + timedelta(days=1)).isoformat()
    decision = decide(production.context, ENDS + WEEK)
    # then it is decided anew
    assert (decision.at, decision.retrain) == (ENDS + WEEK, False)
    assert decided_until(production.context) == ENDS + WEEK


def test_a_replay_goes_on_where_a_first_version_is_refused(
    production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given no champion, and gates that refuse what is trained
    production.registry.champion = None
    for verb in ("ingest", "prepare", "features"):
        monkeypatch.setattr(flows, verb, lambda context, as_of: None)
    trained = SimpleNamespace(version="1")
    monkeypatch.setattr(flows, "train", lambda context, as_of: trained)

    def refuse(context: Context, version: str, who: str) -> None:
        raise UserError(f"Version {version} is archived.", "Correct the causes.")

    monkeypatch.setattr(flows, "deploy", refuse)
    # when a period is lived through
    decision = flows._live_through(production.context, ENDS, is_scheduled=False)
    # then it says why there is no champion, and the replay would resume after it
    assert decision.why == "there is no champion yet: Version 1 is archived"
    assert not decision.retrain
    assert decided_until(production.context) == ENDS
