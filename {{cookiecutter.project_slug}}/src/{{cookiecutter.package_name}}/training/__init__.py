"""From feature tables to a registered model version."""
