from __future__ import annotations

from {{cookiecutter.package_name}} import hosting

ORIGIN = "https://github.com/company/project"


def test_the_repository_is_asked_about_step_by_step() -> None:
    answers: dict[str, str] = {}

    def said(*command: str) -> str | None:
        return answers.get(command[1])

    assert list(hosting.look("", said)) == []
    remedies = []
    for word, answer in (("--version", "2.0"), ("auth", "ann"), ("variable", "[]")):
        remedies += [remedy for _, remedy in hosting.look(ORIGIN, said)]
        answers[word] = answer
    assert remedies[0].startswith("Install it (gh)")
    assert remedies[1:] == ["gh auth login", "gh repo view"]
    assert list(hosting.look(ORIGIN, said)) == [("set up, production is off", "")]
    answers["variable"] = '[{"name":"PRODUCTION"}]'
    assert list(hosting.look(ORIGIN, said)) == [("set up, production is on", "")]
