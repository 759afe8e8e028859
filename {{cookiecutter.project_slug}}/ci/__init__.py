"""What every forge's workflows call: a task's commands, the report of a change, notes."""
