# Stands in for databricks/setup-cli: puts the stage's `databricks` on the PATH of later steps.
mkdir -p "$STAGE/databricks"
printf '#!/bin/sh\nexec python3 "%s" "$@"\n' "$(dirname "$0")/databricks.py" > "$STAGE/databricks/databricks"
chmod +x "$STAGE/databricks/databricks"
echo "$STAGE/databricks" >> "$GITHUB_PATH"
