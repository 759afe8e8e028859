"""What every room relies on: the contract, settings, errors, the terminal."""
