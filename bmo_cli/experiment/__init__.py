"""From a configuration to a run: build, train, evaluate, restore."""
