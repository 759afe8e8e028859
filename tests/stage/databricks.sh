# Stands in for databricks/setup-cli: puts the stage's `databricks` on the PATH of later steps.
echo "$STAGE/databricks" >> "$GITHUB_PATH"
