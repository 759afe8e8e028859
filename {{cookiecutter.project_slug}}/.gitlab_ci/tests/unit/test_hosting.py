from __future__ import annotations

from {{cookiecutter.package_name}} import hosting

ORIGIN = "git@gitlab.company.org:team/project.git"


def test_the_command_line_is_asked_step_by_step() -> None:
    answers: dict[str, str] = {}

    def said(*command: str) -> str | None:
        return answers.get(command[1])

    assert list(hosting.look("", said)) == []
    remedies = []
    for word, answer in (("--version", "2.0"), ("auth", "ann")):
        remedies += [remedy for _, remedy in hosting.look(ORIGIN, said)]
        answers[word] = answer
    assert remedies == ["Install it (glab), or set variables by hand.", "glab auth login"]
    assert list(hosting.look(ORIGIN, said)) == [("its command line is logged in", "")]
