{% include "target/" ~ cookiecutter.problem_type ~ ".py" -%}
