"""From samples to words: local models, the API, and the simulated engine."""
