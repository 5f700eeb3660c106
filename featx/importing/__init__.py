"""Import of features that other tools computed; see `featx.importing.importing`."""
