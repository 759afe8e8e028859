from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import (
    ENV_PREFIX,
    described,
    load_settings,
)

from tests.conftest import ROOT


def test_every_environment_is_valid(project: Path) -> None:
    names = {path.stem for path in (project / "conf").glob("*.yml")} - {"base"}
    loaded = {name: load_settings(name) for name in names}
    assert {"dev", "staging", "prod", "test"} <= names
    assert {name: item.env for name, item in loaded.items()} == {name: name for name in names}
    assert all(item.project == project for item in loaded.values())
    assert len({item.lakehouse.root for item in loaded.values()}) == len(names)


def test_environment_file_wins_over_base_and_variable_over_both(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: project / "conf" / f"{name}.yml" for name in ("base", "test")}
    content = {
        name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in files.items()
    }
    content["base"]["training"] = {"train_days": 41, "rounds": 41, "trials": 41}
    content["test"] = {"training": {"rounds": 42, "trials": 42}}
    for name, path in files.items():
        path.write_text(yaml.safe_dump(content[name]), encoding="utf-8")
    monkeypatch.setenv(f"{ENV_PREFIX}TRAINING__TRIALS", "43")
    training = load_settings("test").training
    assert (training.train_days, training.rounds, training.trials) == (41, 42, 43)


def test_project_is_found_from_a_folder_below(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = project / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert load_settings("dev").project == project


def test_settings_do_not_change(project: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(load_settings("dev").training, "trials", 3)  # noqa: B010 the type checker would refuse it too


@pytest.mark.parametrize("env", ["nope", "base", "../conf/dev"])
def test_unknown_environment_is_named_with_those_there_are(project: Path, env: str) -> None:
    with pytest.raises(UserError, match=f"'{env}'.*\n.*dev, prod, replay, staging, test"):
        load_settings(env)


def test_missing_base_is_named(project: Path) -> None:
    (project / "conf" / "base.yml").unlink()
    with pytest.raises(UserError, match=r"conf/base\.yml"):
        load_settings("dev")


@pytest.mark.parametrize(
    ("added", "key"),
    [
        ("extra: 1", "extra"),
        ("training: {extra: 1}", "training.extra"),
        ("training: 3", "training"),
        ("training: {trials: many}", "training.trials.*'many'"),
        ("training: {trials: 0}", "training.trials.*0"),
        ("lakehouse: {root: x, mounts: [a]}", "lakehouse.mounts"),
        ("stream: {sink: kafka}", "stream.*sink `kafka` answers source `kafka` only"),
        ("kafka: {options: {group.id: x}}", "kafka.options.*not for setting: group.id"),
        ("kafka: {secrets: {sasl.password: not-a-name}}", "kafka.secrets"),
        ("env: prod", "env"),
        ("project: /elsewhere", "project"),
        ("1: x", "1"),
    ],
)
def test_wrong_key_or_value_is_named_with_its_file(project: Path, added: str, key: str) -> None:
    with (project / "conf" / "dev.yml").open("a") as file:
        file.write(f"\n{added}\n")
    with pytest.raises(UserError, match=rf"dev\.yml: {key}"):
        load_settings("dev")


@pytest.mark.parametrize("content", [b"a: [1", b"a: \xff", b"- a", b"a"])
def test_unreadable_file_is_named(project: Path, content: bytes) -> None:
    (project / "conf" / "dev.yml").write_bytes(content)
    with pytest.raises(UserError, match=r"dev\.yml"):
        load_settings("dev")


def test_missing_key_is_named(project: Path) -> None:
    path = project / "conf" / "base.yml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("state:", "# state:"), encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"base\.yml.*state"):
        load_settings("dev")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEED", "abc"),
        ("TRAINING__TRIALS", "0"),
        ("TRAINING__NOPE", "1"),
        ("TRAINING", "not json"),
        ("LAKEHOUSE__MOUNTS", "not json"),
        ("NOPE", "1"),
        ("ENV", "prod"),
        ("PROJECT", "/elsewhere"),
    ],
)
def test_wrong_variable_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(ENV_PREFIX + name, value)
    with pytest.raises(UserError, match=f"variable {ENV_PREFIX}{name}"):
        load_settings("dev")


def test_all_faults_are_told_at_once(project: Path) -> None:
    with (project / "conf" / "dev.yml").open("a") as file:
        file.write("\nseed: -1\ntraining: {trials: 0, train_days: 99999999}\nextra: 1\n")
    with pytest.raises(UserError) as error:
        load_settings("dev")
    for key in ("seed", "training.trials", "training.train_days", "extra"):
        assert f"dev.yml: {key}: " in str(error.value)


def test_a_file_with_comments_only_decides_nothing(project: Path) -> None:
    before = load_settings("staging")
    (project / "conf" / "dev.yml").write_text("# nothing\n", encoding="utf-8")
    assert load_settings("dev").training == before.training


def test_no_two_environments_share_a_registered_model(project: Path) -> None:
    names = [path.stem for path in (project / "conf").glob("*.yml") if path.stem != "base"]
    assert len({load_settings(name).mlflow.model for name in names}) == len(names)


def test_every_setting_says_what_it_means() -> None:
    told = list(described())
    assert len(told) > 40
    assert [key for key, _, meaning in told if not meaning] == []


def test_the_page_of_settings_is_current() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    listed = [line for line in page.splitlines() if line.startswith("| `")]
    current = [f"| `{key}` | `{default}` | {text} |" for key, default, text in described()]
    assert listed == current


def test_a_setting_of_an_earlier_version_has_no_effect(project: Path) -> None:
    with (project / "conf" / "test.yml").open("a", encoding="utf-8") as file:
        file.write("\ntraining:\n  bootstrap_resamples: 200\n  trials: 3\n")
    training = load_settings("test", project).training
    assert training.trials == 3
    assert not hasattr(training, "bootstrap_resamples")


BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{before}, *{before}, *{before}, *{before}]\n"
    for before, name in zip("abcdefghijklmnopqrs", "bcdefghijklmnopqrst", strict=True)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BOMB, "aliases"),
        ("seed: &a [*a]", "aliases"),
        ("[" * 100_000, "nested too deeply"),
        ("seed: 1\nseed: 2", "the key seed comes twice"),
        ("training: {trials: 2, trials: 3}", "the key trials comes twice"),
        ("{[seed]: 1}", "a key is a text"),
        ("seed: " + "9" * 10_000, "Exceeds the limit"),
        ("seed: 2024-02-30", "day is out of range"),
        ("seed: !!timestamp x", "dev.yml"),
        ('seed: !!python/object/apply:os.system ["true"]', "could not determine a constructor"),
        ("x" * 2_000_000, "not a file of at most"),
        ("seed: \0", "special characters"),
    ],
)
def test_a_file_that_is_not_plain_is_refused_in_one_line(
    project: Path, content: str, said: str
) -> None:
    (project / "conf" / "dev.yml").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"dev\.yml") as refused:
        load_settings("dev")
    assert said in refused.value.what
    assert len(refused.value.what) < 1_000


@pytest.mark.parametrize("kind", ["folder", "pipe", "endless", "loop"])
def test_what_is_no_file_is_not_read(project: Path, kind: str) -> None:
    path = project / "conf" / "dev.yml"
    path.unlink()
    make: dict[str, Callable[[], None]] = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "endless": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(path),
    }
    make[kind]()
    with pytest.raises(UserError, match=r"dev\.yml: not a file of at most"):
        load_settings("dev")


def test_a_huge_value_is_not_repeated(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}SEED", "x" * 100_000)
    with pytest.raises(UserError, match="SEED: seed") as refused:
        load_settings("dev")
    assert len(refused.value.what) < 400


@pytest.mark.parametrize("name", ["TRAINING", "ALERTS__RULES", "LAKEHOUSE__MOUNTS"])
def test_a_variable_that_is_nested_too_deeply_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}{name}", "[" * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        load_settings("dev")


ABSURD = ("-1", "4294967296", "1e400", "nan", "inf", "true", "[]", "9" * 400, "99999999999", "x")


@pytest.mark.parametrize("key", [key for key, default, _ in described() if default.isdigit()])
def test_no_number_is_taken_that_is_beyond_its_bounds(
    project: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    name = ENV_PREFIX + key.upper().replace(".", "__")
    for value in ABSURD:
        monkeypatch.setenv(name, value)
        if (key, value) == ("deployment.min_gain", "-1"):  # a gain may be negative
            load_settings("dev")
            continue
        with pytest.raises(UserError, match=f"variable {name}"):
            load_settings("dev")


def test_a_machine_may_name_the_folder_of_its_data(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (project / "conf" / "dev.yml").write_text('state: "{data}/{env}"\n')
    assert load_settings("dev").state == project / ".data" / "dev"
    monkeypatch.setenv("DATA_FOLDER", str(tmp_path / "elsewhere"))
    assert load_settings("dev").state == tmp_path / "elsewhere" / "dev"
    monkeypatch.setenv("DATA_FOLDER", "beside/it")
    with pytest.raises(UserError, match="DATA_FOLDER: 'beside/it' is not an absolute path"):
        load_settings("dev")


@pytest.mark.parametrize("place", ["s3://lake/my tables", "abfss://lake@häuser/x", "gs://a/b%20c"])
def test_an_address_that_libraries_escape_each_in_its_own_way_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv(f"{ENV_PREFIX}LAKEHOUSE__ROOT", place)
    with pytest.raises(UserError, match=r"lakehouse\.root: .*an address takes letters"):
        load_settings("dev")


def test_an_address_has_its_account_and_a_folder_its_spaces(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "abfss://lake@account.dfs.core.windows.net/lake-1/prod_a=b"
    for place in (address, f"{project}/my häuser"):
        monkeypatch.setenv(f"{ENV_PREFIX}LAKEHOUSE__ROOT", place)
        assert load_settings("dev").lakehouse.root == place


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"registry_uri": "databricks-uc", "model": "model"}, "catalog.schema.model"),
        ({"registry_uri": "databricks-uc", "model": "a.b.c/d"}, "catalog.schema.model"),
        ({"tracking_uri": "databricks", "experiment": "parcels"}, "absolute path"),
    ],
)
def test_what_databricks_names_otherwise_is_refused_at_once(
    project: Path, given: dict[str, str], said: str
) -> None:
    (project / "conf" / "dev.yml").write_text(yaml.safe_dump({"mlflow": given}))
    with pytest.raises(UserError, match=f"dev.yml.*mlflow.*{said}"):
        load_settings("dev")


def test_names_of_databricks_are_taken(project: Path) -> None:
    given = {
        "tracking_uri": "databricks",
        "registry_uri": "databricks-uc",
        "experiment": "/Shared/parcels",
        "model": "prod.parcels.model",
    }
    (project / "conf" / "dev.yml").write_text(yaml.safe_dump({"mlflow": given}))
    assert load_settings("dev").mlflow.in_catalog
