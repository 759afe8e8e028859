# Stands in for actions/attest-build-provenance: remembers digest, commit, ref and workflow.
mkdir -p "$STAGE/attestations"
for subject in $INPUT_SUBJECT; do
  digest=$(sha256sum "$subject" | cut -d ' ' -f 1)
  printf '{"repository": "%s", "workflow": "%s", "commit": "%s", "ref": "%s"}' \
    "$GITHUB_REPOSITORY" "$GITHUB_REPOSITORY/.github/workflows/staging.yml" "$GITHUB_SHA" "$GITHUB_REF" \
    > "$STAGE/attestations/$digest"
done
