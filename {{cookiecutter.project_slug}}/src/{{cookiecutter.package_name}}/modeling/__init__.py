"""How models are fit, stored, scored and judged."""
