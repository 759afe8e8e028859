# Stands in for actions/setup-python, and lets the jobs share their environments.
python=python3
for found in $(type -aP "python$INPUT_VERSION" || true); do
  if "$found" -c "" 2>/dev/null; then python=$found; break; fi
done
place="$STAGE/pythons/$INPUT_VERSION"
if [ ! -d "$place/bin" ]; then
  mkdir -p "$place/bin" "$place/.nox"
  ln -s "$("$python" -c 'import sys; print(sys.executable)')" "$place/bin/python3"
  "$python" -m venv "$place/.venv" # bootstrap.py would not make one behind a link
fi
echo "$place/bin" >> "$GITHUB_PATH"
for project in . head base; do
  if [ ! -f "$project/bootstrap.py" ]; then continue; fi
  ln -sfn "$place/.venv" "$place/.nox" "$project/"
  # What an earlier job installed is good at this place, too.
  (cd "$project" && python3 -B "$(dirname "$0")/stamp.py")
done
