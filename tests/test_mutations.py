"""Faults planted in the workflows, one in each line that matters: the rules must see them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pytest_cookies.plugin import Cookies
from rules import RULES, Rendered
from support import checked

PR, ENV = "workflows/pull-request.yml", "workflows/environment.yml"
STAGING, RELEASE = "workflows/staging.yml", "workflows/release.yml"
PRODUCTION, LOCKS = "workflows/production.yml", "workflows/locks.yml"
WHEEL, ALERT = "actions/wheel/action.yml", "actions/alert/action.yml"
PYTHON, COMMANDS = "actions/python/action.yml", "../ci/commands.toml"
# File, text, what takes its place; the first occurrence.
MUTATIONS: tuple[tuple[str, str, str], ...] = (
    # Pull requests
    (PR, "  merge_group:\n", ""),
    (PR, "branches: [main]", "branches: [release]"),
    (PR, "cancel-in-progress: true", "cancel-in-progress: false"),
    (PR, "github.event.pull_request.number || github.ref", "github.event.pull_request.number"),
    (PR, "timeout-minutes: 15", "timeout-minutes: 600"),
    (PR, "      contents: read # to check out\n", "      contents: write # to check out\n"),
    (PR, "permissions: {}", "permissions: read-all"),
    (PR, "python3 -m ci.run lint", "python3 -m ci.run types"),
    (PR, "needs: [lint, types, unit]", "needs: [lint, types]"),
    (PR, "needs: integration", "needs: [lint]"),
    (PR, "[lint, types, unit, integration, model]", "[lint, types, unit, model]"),
    (PR, "${{ always() }} # a", "${{ !cancelled() }} # a"),
    (PR, "    if: ${{ always() }} # a check that is skipped counts as passed\n", ""),
    (PR, "name: Ready to merge", "name: Ready"),
    (PR, "NEEDS: ${{ toJSON(needs) }}", "NEEDS: '{}'"),
    (PR, "fetch-depth: 2", "fetch-depth: 1"),
    (PR, "HEAD^1", "HEAD"),
    (PR, "ref: ${{ steps.base.outputs.commit }}", "ref: main"),
    (PR, "${{ github.event.merge_group.base_sha }}", '""'),
    (PR, "if: env.OPPONENT == ''", "if: env.OPPONENT != ''"),
    (PR, "head.repo.fork != true", "head.repo.fork == true"),
    (PR, "python3 -m ci.run compare", "true"),
    (PR, '.name == "model-override"', '.name != ""'),
    (PR, "needs.model.result == 'failure' &&", "needs.lint.result == 'failure' ||"),
    (PR, "^Model override: *(?<why>[^\\\\s]", "(?<why>.?"),
    (PR, "OVERRIDE: ${{ steps.override.outputs.why }}", "OVERRIDE: always"),
    (PR, "head.repo.full_name == github.repository", "head.repo.full_name != ''"),
    (PR, 'select(.user.type == "Bot" and ', "select("),
    (PR, "persist-credentials: false", "persist-credentials: true"),
    (PR, "  pull_request:\n", "  pull_request_target:\n"),
    (PR, '"3.11", "3.12", "3.13"', '"3.12"'),
    (PR, "          name: tests-integration\n", "          name: other\n"),
    # The environment
    (ENV, "github.ref_name != inputs.branch", "github.ref_name == inputs.branch"),
    (ENV, "environment: ${{ inputs.environment }}\n", "environment: staging\n"),
    (ENV, "      queue: max\n", ""),
    (ENV, "group: ${{ inputs.environment }}-${{ inputs.lane }}", "group: tables"),
    (ENV, "cancel-in-progress: false", "cancel-in-progress: true"),
    (ENV, "      actions: read # to know when the run was started\n", ""),
    (ENV, "      attestations: read # to verify the wheel\n", ""),
    (ENV, "      statuses: read # to know the wheel's digest\n", ""),
    (ENV, "      id-token: write # to log in without a secret\n", ""),
    (ENV, "|| 'ubuntu-latest' }}", "|| 'self-hosted' }}"),
    (ENV, "persist-credentials: false", "persist-credentials: false\n          clean: false"),
    (ENV, 'cache: "false"', 'cache: "true"'),
    (ENV, "      - if: inputs.wheel == 'release'\n", "      - if: inputs.wheel == 'other'\n"),
    (ENV, "attested: ${{ vars.ATTESTATIONS }}", 'attested: ""'),
    (ENV, "./.github/actions/login", "./.github/actions/python"),
    (ENV, "credentials: ${{ secrets.CREDENTIALS }}", 'credentials: ""'),
    (ENV, "--jq .created_at", "--jq .run_started_at"),
    (ENV, "AS_OF: ${{ steps.moment.outputs.as-of }}", "AS_OF: ${{ inputs.as_of }}"),
    (ENV, "inputs.data || format('{0}/.data', github.workspace)", "github.workspace"),
    (ENV, "VERSION: ${{ inputs.version }}", 'VERSION: ""'),
    (ENV, "WHO: ${{ inputs.who || github.actor }}", "WHO: ${{ github.actor }}"),
    (ENV, "waiting: ${{ steps.task.outputs.waiting }}", "waiting: ''"),
    (ENV, "inputs.task == 'demo'", "inputs.task == 'daily'"),
    # Staging
    (STAGING, 'tags: ["v*"]', 'tags: ["*"]'),
    (STAGING, "  queue: max\n", ""),
    (STAGING, "retention-days: 90", "retention-days: 1"),
    (STAGING, "if-no-files-found: error", "if-no-files-found: ignore"),
    (STAGING, "    needs: build\n", ""),
    (STAGING, "wheel: run", "wheel: none"),
    (STAGING, "    secrets: inherit\n", ""),
    (STAGING, "needs.loop.result == 'success' && ", ""),
    (STAGING, "&& vars.ATTESTATIONS == 'on'", ""),
    (STAGING, "      statuses: write # to record the wheel's digest\n", ""),
    (STAGING, "--verify-tag ", ""),
    (STAGING, 'description="sha256:$digest"', "description=done"),
    (STAGING, "made/sbom*.json ", ""),
    (STAGING, "python3 -m ci.notes", "echo"),
    (STAGING, "|| contains(needs.*.result, 'cancelled')", ""),
    # Release
    (RELEASE, "branches: [release]", "branches: [main]"),
    (RELEASE, "-${{ inputs.action }}", ""),
    (RELEASE, "if: vars.PRODUCTION != 'on'", "if: false"),
    (RELEASE, "      branch: release\n", ""),
    (RELEASE, "      wheel: release\n", "      wheel: none\n"),
    (RELEASE, "      environment: production\n", "      environment: staging\n"),
    (RELEASE, "    environment: promotion\n", ""),
    (RELEASE, 'any(.environments[]; .name == "promotion")', "true"),
    (RELEASE, 'select(.state == "approved" and ', "select("),
    (RELEASE, "needs.approval.result == 'success'", "true"),
    (RELEASE, "needs: [candidate, approval]", "needs: [candidate]"),
    (RELEASE, "      version: ${{ needs.candidate.outputs.waiting || inputs.version }}\n", ""),
    (RELEASE, "who: ${{ needs.approval.outputs.who }}", "who: ${{ github.actor }}"),
    (RELEASE, "who: ${{ github.triggering_actor }}", "who: ${{ github.actor }}"),
    (RELEASE, "|| vars.APPROVAL != 'environment'", "|| true"),
    (RELEASE, "      lane: decisions\n", ""),
    (RELEASE, "      task: rollout\n", "      task: approve\n"),
    (RELEASE, "needs: [promote, decide]", "needs: [promote]"),
    (RELEASE, "needs.promote.result == 'success'", "true"),
    (RELEASE, "&& inputs.action == 'approve')", ")"),
    (RELEASE, "      actions: read # to know who approved\n", ""),
    (RELEASE, "data: ${{ vars.PRODUCTION_DATA }}", 'data: ""'),
    # Production
    (PRODUCTION, "--ref release", "--ref main"),
    (PRODUCTION, "github.event_name == 'schedule' && ", ""),
    (PRODUCTION, "actions: write # to start a workflow", "actions: read"),
    (PRODUCTION, "task: daily", "task: deploy"),
    (PRODUCTION, "as_of: ${{ inputs.as_of }}", 'as_of: ""'),
    (PRODUCTION, "needs: [start, daily]", "needs: [daily]"),
    (PRODUCTION, "      issues: write # to open, comment and close\n", ""),
    (LOCKS, 'gh workflow run pull-request.yml --ref "$BRANCH"', "true"),
    (LOCKS, "lock --upgrade", "lock"),
    # Actions
    (WHEEL, ".commit.sha == env.COMMIT and ", ""),
    (WHEEL, "tail -n 1", "head -n 1"),
    (WHEEL, ' and .creator.login == "github-actions[bot]"', ""),
    (WHEEL, "sha256sum --check --strict", "cat"),
    (WHEEL, '--source-digest "$COMMIT" ', ""),
    (WHEEL, ' --source-ref "refs/tags/$TAG"', ""),
    (WHEEL, '--signer-workflow "$SIGNER" ', ""),
    (WHEEL, "inputs.attested == 'on'", "inputs.attested == 'no'"),
    (ALERT, "--limit 1000 ", ""),
    (ALERT, "gh issue close", "gh issue comment"),
    (PYTHON, "rm -rf dist", "true"),
    (PYTHON, "hashFiles('requirements/*.txt', ", "hashFiles("),
    (STAGING, "python3 -m ci.run install", "true"),
    # The contract
    (COMMANDS, "bootstrap.py gates --junitxml=reports/gates.xml", "bootstrap.py unit"),
    (COMMANDS, '  "python3 bootstrap.py problem --junitxml=reports/problem.xml",\n', ""),
    (COMMANDS, '"python3 bootstrap.py lint", "python3 bootstrap.py workflows"', '"true x y"'),
    (COMMANDS, "unit-$PYTHON.xml", "unit.xml"),
    (PR, "          PYTHON: ${{ matrix.python }}\n", "          PYTHON: one\n"),
    (COMMANDS, "approve --env prod --version $VERSION", "approve --env prod"),
    (COMMANDS, "reject --env prod --version $VERSION", "reject --env prod"),
    (COMMANDS, "train --env prod --outputs $OUTPUTS", "train --env prod"),
    (COMMANDS, "deploy --env prod --version $version --who $WHO", "deploy --env prod --who $WHO"),
    (COMMANDS, '  "python3 bootstrap.py cli monitor --env prod",\n', ""),
    (COMMANDS, "predict --env staging", "predict --env prod"),
    (COMMANDS, "deploy --env prod --new --who $WHO", "deploy --env prod --who $WHO"),
    ("rulesets/main.json", "Ready to merge", "Lint"),
    ("rulesets/tags.json", ', { "type": "update" }', ""),
    ("rulesets/release.json", '"non_fast_forward"', '"update"'),
    # What no rule sees
    (ALERT, "Still red: $RUN", "Still red"),
    ("actions/missing/action.yml", "PRODUCTION_DATA |", "DATA |"),
)
# The texts of two messages: the tests that execute the workflows read them.
UNSEEN = MUTATIONS[-2:]


def seen(project: Path, mutation: tuple[str, str, str], folder: Path) -> bool:
    """Whether a rule objects to a project with this fault."""
    for part in (".github", "ci"):
        shutil.copytree(project / part, folder / part)
    shutil.copy(project / "pyproject.toml", folder)
    name, before, after = mutation
    path = folder / ".github" / name
    text = path.read_text(encoding="utf-8")
    assert before in text, f"{name} has no {before!r}"
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    for rule in RULES:
        try:
            rule(Rendered(folder))
        except (AssertionError, KeyError, ValueError, TypeError, AttributeError):
            return True
    return False


@pytest.fixture(scope="module")
def default(cookies_session: Cookies, template: Path) -> Path:
    """The default project."""
    return Path(checked(cookies_session, template)().project_path)


def test_without_a_fault_nothing_is_seen(default: Path, tmp_path: Path) -> None:
    assert not seen(default, ("workflows/release.yml", "name: ", "name: "), tmp_path / "same")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation[0])
def test_a_fault_in_the_workflows_is_seen(
    default: Path, tmp_path: Path, mutation: tuple[str, str, str]
) -> None:
    assert seen(default, mutation, tmp_path / "mutated") == (mutation not in UNSEEN)


def test_nearly_all_of_many_are_seen() -> None:
    assert len(MUTATIONS) >= 60
    assert len(UNSEEN) / len(MUTATIONS) <= 0.05
