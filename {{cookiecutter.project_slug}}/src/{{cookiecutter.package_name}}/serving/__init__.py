"""What answers over HTTP: the dashboard and the receiver of webhooks."""
