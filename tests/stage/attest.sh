# Stands in for actions/attest-build-provenance: remembers digest and commit.
mkdir -p "$STAGE/attestations"
for subject in $INPUT_SUBJECT; do
  echo "$GITHUB_SHA" > "$STAGE/attestations/$(sha256sum "$subject" | cut -d ' ' -f 1)"
done
