# Stands in for actions/checkout: a fresh clone of the stage's repository.
mkdir -p "$INPUT_PATH"
cd "$INPUT_PATH"
git init --quiet
git fetch --quiet "$STAGE/origin.git" "+refs/heads/*:refs/remotes/origin/*"
if [ -z "$INPUT_REF" ]; then commit=$GITHUB_SHA
elif [[ "$INPUT_REF" =~ ^[0-9a-f]{40}$ ]]; then commit=$INPUT_REF
else commit=$(git rev-parse "origin/$INPUT_REF"); fi
git checkout --quiet --detach "$commit"
# Links to what the jobs share are no part of the work tree.
printf '.venv\n.nox\n' >> .git/info/exclude
# A runner of one's own keeps what git ignores.
if [ "$INPUT_CLEAN" = false ]; then
  mkdir -p dist
  touch dist/flight_delays-0.0.0-py3-none-any.whl
fi
