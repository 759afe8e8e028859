"""From predictions and late labels to metrics, alerts and the decision to train again."""
