"""Operations of the model, each defined by a plain-torch function. Imports nothing else of the package."""
