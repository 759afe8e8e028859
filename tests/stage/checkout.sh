# Stands in for actions/checkout: as many commits of the stage's repository as were asked for.
mkdir -p "$INPUT_PATH"
cd "$INPUT_PATH"
git init --quiet
if [ -z "$INPUT_REF" ]; then commit=$GITHUB_SHA
elif [[ "$INPUT_REF" =~ ^[0-9a-f]{40}$ ]]; then commit=$INPUT_REF
else commit=$(git ls-remote "$STAGE/origin.git" "refs/heads/$INPUT_REF" | cut -f 1); fi
depth=(--depth "$INPUT_DEPTH")
if [ "$INPUT_DEPTH" = 0 ]; then depth=(); fi
git fetch --quiet --no-tags "${depth[@]}" "file://$STAGE/origin.git" "$commit"
# Of a tag that was pushed, the tag as well.
if [[ -z "$INPUT_REF" && "$GITHUB_REF" = refs/tags/* ]]; then
  git update-ref "$GITHUB_REF" "$commit"
fi
git checkout --quiet --detach "$commit"
# Links to what the jobs share are no part of the work tree.
printf '.venv\n.nox\n' >> .git/info/exclude
